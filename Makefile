# Everything a newcomer needs; each target sets up what it stands on, on a bare Debian with Rust and a C compiler.

.PHONY: demo test lint bench build setup-test clean

CARGO ?= cargo

# The whole story on embedded parts, in a temporary folder: make demo, or make demo ARGS=--exit
demo:
	$(CARGO) run --quiet -- demo $(ARGS)

build:
	$(CARGO) build --release

# Real git, PostgreSQL and Redis, started and stopped by the tests: make test, or make test ARGS='--test it story'
test: setup-test
	$(CARGO) test $(ARGS)

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings

bench: setup-test
	$(CARGO) bench --bench plumb $(ARGS)

setup-test:
	@tests/setup.sh

clean:
	$(CARGO) clean
