# SPDX-License-Identifier: Apache-2.0
"""Options that every command spells the same way."""

from typing import Annotated

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
