"""The steps of the main flow: what is read, recorded, trained, judged and published."""
