package plumb.acme.extensions_test

import data.plumb.acme.extensions

database(spec) := {"resource": {"kind": "Database", "spec": spec}}

test_a_known_extension_passes if {
	count(extensions.deny) == 0 with input as database({"extensions": ["pgcrypto"]})
}

test_an_unknown_extension_is_denied if {
	some finding in extensions.deny with input as database({"extensions": ["pgcrypto", "plpython3u"]})
	contains(finding.msg, "plpython3u")
	finding.path == "/spec/extensions"
}

test_no_extension_passes if {
	count(extensions.deny) == 0 with input as database({})
}
