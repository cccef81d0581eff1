"""Folders of Parquet files, embedded file by file: what `ray` and `spark` have in common."""
