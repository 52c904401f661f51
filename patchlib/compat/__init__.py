"""The classes, figures and printed tables of the document that patchlib grew from, thin, on top of ``sweep``."""
