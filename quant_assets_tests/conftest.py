"""What holds for all tests: properties have no deadline, for a first example may compile or import for seconds."""

from hypothesis import settings

settings.register_profile("quant_assets", deadline=None)
settings.load_profile("quant_assets")
