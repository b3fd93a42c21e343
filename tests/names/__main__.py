"""`python -m names openssl|kernel|fill`, with tests/ in the path: what scripts/names runs."""

import sys

from .survey import survey_kernel, survey_openssl
from .table import fill


def main() -> None:
    """Survey an engine and keep the answer, or fill the document."""
    match sys.argv[1:]:
        case ["openssl"]:
            print(survey_openssl().save())
        case ["kernel"]:
            print(survey_kernel().save())
        case ["fill"]:
            fill()
        case _:
            sys.exit(__doc__)


main()
