# Two commands are enough: `make demo` and `make test`. Both install what they need first.
FITS := import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(shell for p in python3.14 python3.13 python3.12 python3.11 python3; do \
  $$p -c '$(FITS)' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
NATIVE := CMakeLists.txt $(shell find thp_env workloads agents -name '*.cpp' -o -name '*.hpp' 2>/dev/null)
CHECKED := thp_env $(wildcard agents workloads benchmarks)
EDITABLE := $(PIP) install --no-build-isolation

.PHONY: install demo test bench corpus full rllib docs lint format stub sanitize fuzz mutations clean
.DELETE_ON_ERROR:
.NOTPARALLEL:

install: $(VENV)/with-dev $(VENV)/installed

$(BIN)/python:
	@'$(PYTHON)' -c '$(FITS)' 2>/dev/null && command -v g++ >/dev/null || { \
	  echo 'Python 3.11 to 3.14 with venv$(if $(PYTHON), (not $(PYTHON))) and g++ are needed: apt-get install g++ make python3 python3-venv,' \
	    'or name a Python: make PYTHON=python3.12' >&2; exit 1; }
	'$(PYTHON)' -m venv $(VENV)
	$(PIP) install 'scikit-build-core>=0.10' 'nanobind>=2.4' cmake ninja setuptools wheel

# The package with an extra of pyproject.toml, and what that includes.
INCLUDED_test := agents
INCLUDED_lint := agents
INCLUDED_docs := agents
INCLUDED_dev := agents test lint docs
$(VENV)/with-%: pyproject.toml | $(BIN)/python
	$(EDITABLE) -e '.[$*]'
	@touch $@ $(addprefix $(VENV)/with-,$(INCLUDED_$*)) $(VENV)/installed

# The package alone, so that an edit of a C++ file does not ask the package index.
$(VENV)/installed: $(NATIVE) | $(BIN)/python
	@command -v g++ >/dev/null || { echo 'g++ is needed: apt-get install g++ make' >&2; exit 1; }
	$(EDITABLE) --no-deps -e .
	@touch $@

demo: $(VENV)/with-agents $(VENV)/installed
	$(BIN)/thp-env demo

test: $(VENV)/with-test $(VENV)/installed
	$(BIN)/python -m pytest -n auto --dist worksteal

bench: $(VENV)/with-test $(VENV)/installed
	$(BIN)/thp-env bench

# Recordings of real programs, which only suites of full length need.
corpus: $(VENV)/with-agents $(VENV)/installed
	$(EDITABLE) --no-deps -e workloads/corpus

full: $(VENV)/with-test $(VENV)/installed
	$(BIN)/python -m pytest -m 'full or not full'
	$(MAKE) sanitize
	$(MAKE) mutations
	$(MAKE) rllib

# RLlib pins the oldest gymnasium that is supported, so its venv tests the environments with that one too, and has Ray.
RLLIB := build/rllib
rllib: $(VENV)/with-agents $(VENV)/installed
	$(BIN)/python -m venv $(RLLIB)
	$(RLLIB)/bin/python -m pip --disable-pip-version-check -q install 'ray[rllib]' 'torch>=2.4,<2.14' 'pytest>=8' \
	  'hypothesis>=6.100' 'stable-baselines3>=2.7' 'sb3-contrib>=2.7' 'matplotlib>=3.8' 'tqdm>=4.66' 'msgspec>=0.19' \
	  gymnasium==1.2.2
	$(PIP) wheel --no-build-isolation --no-deps -C build-dir=build/wheel --wheel-dir $(RLLIB)/wheel .
	$(RLLIB)/bin/python -m pip -q install --no-deps --force-reinstall $(RLLIB)/wheel/*.whl
	$(RLLIB)/bin/python examples/rllib_ppo.py --iterations 2 --batch 256
	cd $(RLLIB) && bin/python -P -m pytest -p no:cacheprovider -c ../../pyproject.toml ../../tests/envs
	cd $(RLLIB) && bin/python -P -m pytest -p no:cacheprovider -c ../../pyproject.toml -m full ../../tests/agents/test_ray.py

docs: $(VENV)/with-docs $(VENV)/installed
	$(BIN)/mkdocs build --strict -q

lint: $(VENV)/with-lint $(VENV)/installed
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/clang-format --dry-run -Werror $(filter-out CMakeLists.txt,$(NATIVE))
	@$(BIN)/clang-tidy -p build/Release --quiet $(filter %.cpp,$(NATIVE))

format: $(VENV)/with-lint $(VENV)/installed
	@$(BIN)/ruff check --fix-only -q .
	@$(BIN)/clang-format -i $(filter-out CMakeLists.txt,$(NATIVE))

# The types of the compiled core, as Python sees them.
stub: $(VENV)/with-lint $(VENV)/installed
	$(BIN)/python -m nanobind.stubgen -q -m thp_env.machine._core -p thp_env/machine/_core.pat -o thp_env/machine/_core.pyi

# The package once more, with both sanitizers, beside the venv. The plain interpreter reads no .pth files from
# PYTHONPATH, so the editable install stays out of the way. libcachesim, a test oracle, mixes new and free; the
# interpreter keeps memory until it exits.
SANITIZED := build/sanitize/site
sanitize: $(VENV)/with-test $(VENV)/installed
	$(PIP) install --no-build-isolation --no-deps --upgrade --target $(SANITIZED) \
	  -C build-dir=build/sanitize/cmake -C cmake.define.THP_SANITIZE=ON -C install.strip=false .
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0:alloc_dealloc_mismatch=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  PYTHONPATH=$(SANITIZED):$$(echo $(VENV)/lib/python*/site-packages) PYTHONDONTWRITEBYTECODE=1 \
	  $$($(BIN)/python -c 'import sys; print(sys._base_executable)') -P -s -m pytest -m 'sanitize and not full'

# A libFuzzer target over the interpreter; what it finds stays in build/fuzz, and so does its corpus.
SECONDS ?= 60
FUZZED := $(filter-out thp_env/machine/bindings%,$(wildcard $(addprefix thp_env/machine/,*.cpp kernel/*.cpp hardware/*.cpp)))
build/fuzz/program: tests/fuzz/program.cpp $(NATIVE)
	@command -v clang++ >/dev/null || { echo 'clang with libFuzzer is needed: apt-get install clang' >&2; exit 1; }
	@mkdir -p build/fuzz/corpus
	clang++ -std=c++20 -g1 -O2 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
	  -fno-strict-aliasing -Ithp_env/machine $(FUZZED) $< -o $@

# Then the readers of files, one target after the other (tests/fuzz/readers.py).
fuzz: build/fuzz/program install
	$< -max_total_time=$(SECONDS) -max_len=512 -len_control=0 -timeout=60 -print_final_stats=1 -artifact_prefix=build/fuzz/ \
	  build/fuzz/corpus
	for target in text program policy trajectory recording agent logs; do $(BIN)/python tests/fuzz/readers.py $$target \
	  build/fuzz/readers-$$target -max_total_time=$(SECONDS) -timeout=20 -rss_limit_mb=4096 -artifact_prefix=build/fuzz/ \
	  || exit 1; done

# Disables each rule of the kernel in a copy of the source; the recorded scenario that is named for it has to fail.
mutations: $(VENV)/with-test $(VENV)/installed
	$(BIN)/python tests/mutations/run.py

clean:
	rm -rf build dist $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
