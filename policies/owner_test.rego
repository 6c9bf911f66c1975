package plumb.owner_test

import data.plumb.owner

key := "shop/staging/Database/orders"

test_an_owner_is_enough if {
	count(owner.warn) == 0 with input as {"key": key, "resource": {"metadata": {"labels": {"owner": "team-shop"}}}}
}

test_no_owner_is_warned_of if {
	count(owner.warn) == 1 with input as {"key": key, "resource": {"metadata": {"name": "orders"}}}
}

test_an_empty_owner_is_none if {
	count(owner.warn) == 1 with input as {"key": key, "resource": {"metadata": {"labels": {"owner": " "}}}}
}

test_an_exception_silences_it if {
	count(owner.warn) == 0 with input as {"key": key, "resource": {"metadata": {}}}
		with data.plumb.exceptions.owner as {key}
}
