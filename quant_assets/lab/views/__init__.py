"""The pages of the lab, one module each; `page` draws it, what stands above is pure."""
