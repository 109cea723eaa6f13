# make setup   the environment in .venv, at the exact versions of requirements.txt
# make demo    every stage on a small synthetic cohort; DATA=<PTB-XL folder>: on real ECGs
# make test    ruff, mypy and the tests (adds what only they need: requirements-test.txt)
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready
TEST_READY := .venv/.test-ready

.PHONY: setup demo test
setup: $(READY)

$(READY): requirements.txt setup.cfg pyproject.toml
	@echo "setting up .venv from requirements.txt (about 2 GB; minutes) …"
	@rm -f $(READY)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--requirement requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

$(TEST_READY): requirements-test.txt $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--requirement requirements-test.txt
	@touch $(TEST_READY)

demo: setup
ifdef DATA
	@$(BIN)/python -m enecg.discard records=data/demo-ptb-xl \
		features=data/demo-ptb-xl.features run=runs/demo-ptb-xl
	@$(BIN)/python ray_jobs/convert.py --source ptb-xl --input "$(DATA)" --output data/demo-ptb-xl
	@$(BIN)/python ray_jobs/pipeline.py --config ray_jobs/config/ptb_xl.yaml \
		--set records=data/demo-ptb-xl --set run_dir=runs/demo-ptb-xl
else
	@$(BIN)/python -m enecg.discard records=data/demo features=data/demo.features \
		cohort=data/demo-wfdb run=runs/demo
	@$(BIN)/python ray_jobs/make_synthetic.py data/demo-wfdb --records 200
	@$(BIN)/python ray_jobs/convert.py --source wfdb --input data/demo-wfdb \
		--labels data/demo-wfdb/labels.csv --output data/demo
	@$(BIN)/python ray_jobs/pipeline.py --config ray_jobs/config/demo.yaml
endif

test: $(TEST_READY)
	@$(BIN)/ruff check enecg ray_jobs tests benchmarks
	@$(BIN)/ruff format --check enecg ray_jobs tests benchmarks
	@$(BIN)/mypy enecg ray_jobs
	@$(BIN)/python -m pytest
