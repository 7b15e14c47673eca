# Only `cc` and a POSIX system are needed for build, run and install; `make help` names the rest.
CC = cc
CFLAGS = -O2
PREFIX = /usr/local
DESTDIR =
SAN = -O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all
# Where the compiler has these a program with sanitizers starts in half of the time: tests/run sets them.
SANLIBS =
AUDIT = -DLDCORN_AUDIT -DLDCORN_POLL_ONLY -DLDCORN_PORTABLE
SOURCES = ldcorn.h examples/main.c
UNIT = tests/unit/test_http.c
FUZZ_SECONDS = 60
FUZZ_TARGETS =

.PHONY: build run test strict lint unit instructions flow asan sim real soak fuzz fuzz-coverage bench install clean help

build: build/ldcorn ## build/ldcorn, the program

run: build/ldcorn ## serve examples/groups.ini until ^C
	build/ldcorn examples/groups.ini

test: ## all of the parts below but bench; the last line says how many passed
	tools/deps
	CC='$(CC)' tests/run

strict: ## compilers, standards, ways to include ldcorn.h
	CC='$(CC)' tests/run strict

lint: ## lengths, blanks, order of sections, keys against the README
	CC='$(CC)' tests/run lint

unit: ## parser, chunk decoder, routes, numbers: plain and with sanitizers
	CC='$(CC)' tests/run unit unit-asan

instructions: ## instructions per request under callgrind, against tests/instructions/baseline.txt
	CC='$(CC)' tests/run instructions

flow: ## tests/flow with build/ldcorn
	CC='$(CC)' tests/run flow

asan: ## what of tests/flow and tests/real concerns sanitizers and audit, epoll, kqueue, a shaky system
	CC='$(CC)' tests/run flow-asan flow-epoll flow-kqueue flow-shaky real-asan

sim: ## lives from seeds (tests/sim): the system, workers, clients and operators around ldcorn.h
	CC='$(CC)' tests/run sim

real: ## tests/real: servers and clients as they are installed
	CC='$(CC)' tests/run real

soak: build/ldcorn-asan ## a million requests and 100,000 counted ones with build/ldcorn-asan
	LDCORN_BIN=build/ldcorn-asan tests/soak.py --requests 1000000
	SOAK=5 LDCORN_BIN=build/ldcorn-asan /usr/bin/python3 -m pytest -q -p no:cacheprovider tests/flow/test_queue.py -k exact

fuzz: ## new inputs for FUZZ_TARGETS (or all of tests/fuzz), each for FUZZ_SECONDS; needs clang
	tests/fuzz/run fuzz $(FUZZ_SECONDS) $(FUZZ_TARGETS)

fuzz-coverage: ## lines of ldcorn.h that the inputs of tests/fuzz/corpus reach
	tests/fuzz/run coverage

bench: build/ldcorn ## CPU per request beside nginx and HAProxy (tools/bench --list)
	LDCORN_BIN=build/ldcorn tools/bench

install: build/ldcorn ## PREFIX/bin/ldcorn and ldcornctl, include/ldcorn.h, the systemd unit, ldconfig2ini.py
	mkdir -p '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(PREFIX)/include' '$(DESTDIR)$(PREFIX)/share/ldcorn'
	mkdir -p '$(DESTDIR)$(PREFIX)/lib/systemd/system'
	cp build/ldcorn tools/ldcornctl '$(DESTDIR)$(PREFIX)/bin/'
	cp ldcorn.h '$(DESTDIR)$(PREFIX)/include/ldcorn.h'
	cp tools/ldconfig2ini.py '$(DESTDIR)$(PREFIX)/share/ldcorn/'
	sed 's|/usr/local/bin/|$(PREFIX)/bin/|' tools/ldcorn.service >'$(DESTDIR)$(PREFIX)/lib/systemd/system/ldcorn.service'

clean: ## remove build/
	rm -rf build

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

# Written beside and moved into place, so that a program that runs is never written to.
build/ldcorn: $(SOURCES)
	@mkdir -p build
	$(CC) $(CFLAGS) examples/main.c -o $@.new
	@mv $@.new $@

build/ldcorn-asan: $(SOURCES)
	@mkdir -p build
	$(CC) $(SAN) $(SANLIBS) $(AUDIT) examples/main.c -o $@.new
	@mv $@.new $@

# All idle connections behind epoll, and behind kqueue (made of epoll: tests/kqueue), whatever their number.
build/ldcorn-epoll: $(SOURCES)
	@mkdir -p build
	$(CC) $(SAN) $(SANLIBS) -DLDCORN_AUDIT -DLDCORN_COLD=0 -DLDCORN_READY=3 examples/main.c -o $@.new
	@mv $@.new $@

build/ldcorn-kqueue: $(SOURCES) tests/kqueue/sys/event.h
	@mkdir -p build
	$(CC) $(SAN) $(SANLIBS) -DLDCORN_AUDIT -DLDCORN_COLD=0 -DLDCORN_KQUEUE -Itests/kqueue examples/main.c -o $@.new
	@mv $@.new $@

# Interrupted calls, short reads and writes, and what else a system may do (tests/shaky.c).
build/ldcorn-shaky: $(SOURCES) tests/shaky.c
	@mkdir -p build
	$(CC) $(SAN) $(SANLIBS) -DLDCORN_AUDIT examples/main.c tests/shaky.c \
	    $$(sed -n 's/^CALL([a-z_]*, \([a-z0-9_]*\),.*/-Wl,--wrap=\1/p' tests/shaky.c) -o $@.new
	@mv $@.new $@

build/dial_worker: ldcorn.h examples/dial_worker.c
	@mkdir -p build
	$(CC) $(CFLAGS) examples/dial_worker.c -o $@.new
	@mv $@.new $@

build/dial_worker-asan: ldcorn.h examples/dial_worker.c
	@mkdir -p build
	$(CC) $(SAN) $(SANLIBS) $(AUDIT) examples/dial_worker.c -o $@.new
	@mv $@.new $@

build/unit: $(UNIT) ldcorn.h
	@mkdir -p build
	$(CC) -O2 -Wall -Wextra $(UNIT) -o $@

build/unit-asan: $(UNIT) ldcorn.h
	@mkdir -p build
	$(CC) $(SAN) $(SANLIBS) $(AUDIT) -Wall -Wextra $(UNIT) -o $@
