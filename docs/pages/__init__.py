"""The pages and drawings of the documentation that are made of the code when the site is built.

Each module makes one kind of page as Markdown text; `reference.py` lists them. None of them knows MkDocs: `hooks.py`
beside this package puts them into the site.
"""
