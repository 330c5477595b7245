"""A table's rows as AVRO object container files, and back: from COPY BINARY into COPY BINARY, by columns of numpy.

No value becomes a Python object on its way, so that every bit arrives as PostgreSQL sent it. The package knows neither
manifests nor the layout of a bucket (``shared.backups`` does).
"""
