"""What a run's and a sweep's files say: statistics, tables, figures, verdicts and the report."""

import logging

logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of each table of a font in a PDF
logging.getLogger("matplotlib").setLevel(logging.WARNING)  # a first run must not end with "generated new fontManager"
