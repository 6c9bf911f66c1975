package plumb.connections_test

import data.plumb.connections

key := "shop/production/Database/orders"

database(environment, provider, spec) := {
	"key": key,
	"environment": environment,
	"provider": {"name": "main", "type": provider},
	"resource": {"kind": "Database", "spec": spec},
}

test_a_limit_passes if {
	count(connections.deny) + count(connections.warn) == 0 with input as database("production", "postgres", {"connectionLimit": 20})
}

test_none_in_production_is_warned_of if {
	count(connections.warn) == 1 with input as database("production", "postgres", {})
}

test_a_null_is_none if {
	count(connections.warn) == 1 with input as database("production", "postgres", {"connectionLimit": null})
}

test_unlimited_in_production_is_denied if {
	count(connections.deny) == 1 with input as database("production", "postgres", {"connectionLimit": -1})
	count(connections.warn) == 0 with input as database("production", "postgres", {"connectionLimit": -1})
}

test_elsewhere_nothing_is_said if {
	count(connections.deny) + count(connections.warn) == 0 with input as database("staging", "postgres", {"connectionLimit": -1})
	count(connections.deny) + count(connections.warn) == 0 with input as database("production", "sqlite", {})
}

test_an_exception_lets_one_database_pass if {
	count(connections.deny) == 0 with input as database("production", "postgres", {"connectionLimit": -1})
		with data.plumb.exceptions.connections as {key}
}
