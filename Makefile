# Everything a newcomer needs; each target sets up what it stands on, on a bare Debian with Rust and a C compiler.

.PHONY: demo build test lint bench clean

CARGO ?= cargo

# The whole story on embedded parts, in a temporary folder: make demo, or make demo ARGS=--exit
demo:
	@tests/setup.sh demo
	$(CARGO) run --bin plumb -- demo $(ARGS)

# The program as it is deployed: target/release/plumb
build:
	@tests/setup.sh demo
	$(CARGO) build --release --bin plumb

# Real git, PostgreSQL and Redis, started and stopped by the tests: make test, or make test ARGS='--test it story'
test:
	@tests/setup.sh test
	$(CARGO) test $(ARGS)

lint:
	@tests/setup.sh lint
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings

# Beside named yardsticks, in the same run
bench:
	@tests/setup.sh test
	$(CARGO) bench --bench plumb $(ARGS)

clean:
	$(CARGO) clean
