#!/usr/bin/env bash
# Holds .github/workflows to the schema of workflows and to zizmor's audits; both linters come from pip's index.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
linters=target/linters
python3 -m pip install --quiet --disable-pip-version-check --upgrade --target "$linters" check-jsonschema==0.39.0 zizmor==1.32.0
PYTHONPATH=$linters python3 -m check_jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
"$linters/bin/zizmor" --quiet --offline --config .github/zizmor.yml .github/workflows
