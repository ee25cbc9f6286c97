"""What a run found, to look at: figures, cards of latents, and one page that needs nothing.

    from deconstruct import open_store
    from deconstruct.report import figures

    figures.density(open_store(), "latest")  # an Altair chart

One definition of each figure serves notebooks, the report, the explorer and files.
"""

from deconstruct.report.files import Saved, save_all

__all__ = ["Saved", "save_all"]
