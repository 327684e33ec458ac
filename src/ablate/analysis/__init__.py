"""What a run's and a sweep's files say: statistics, tables, figures, verdicts and the report."""

import logging

logging.getLogger("matplotlib").setLevel(logging.WARNING)  # a first run must not end with "generated new fontManager"
