package plumb.names_test

import data.plumb.names

resource(name) := {"key": sprintf("shop/staging/Database/%s", [name]), "resource": {"metadata": {"name": name}}}

test_an_ordinary_name_passes if {
	count(names.deny) == 0 with input as resource("orders")
}

test_a_reserved_name_is_denied if {
	some finding in names.deny with input as resource("postgres")
	finding.path == "/metadata/name"
}

test_two_dashes_are_denied if {
	count(names.deny) == 1 with input as resource("orders--old")
}

test_an_exception_lets_one_name_pass if {
	count(names.deny) == 0 with input as resource("postgres")
		with data.plumb.exceptions.names as {"shop/staging/Database/postgres"}
}
