package plumb.deletion_test

import data.plumb.deletion

key := "shop/production/Database/orders"

resource(policy) := {"metadata": {"annotations": {"plumb.dev/deletion": policy}}}

test_delete_in_production_is_denied if {
	count(deletion.deny) == 1 with input as {
		"key": key, "environment": "production", "dataBearing": true, "resource": resource("delete"),
	}
}

test_protect_in_production_passes if {
	count(deletion.deny) == 0 with input as {
		"key": key, "environment": "production", "dataBearing": true, "resource": resource("protect"),
	}
}

test_delete_elsewhere_passes if {
	count(deletion.deny) == 0 with input as {
		"key": key, "environment": "staging", "dataBearing": true, "resource": resource("delete"),
	}
}

test_a_kind_without_data_passes if {
	count(deletion.deny) == 0 with input as {
		"key": key, "environment": "production", "dataBearing": false, "resource": resource("delete"),
	}
}

test_an_exception_lets_one_resource_pass if {
	count(deletion.deny) == 0 with input as {
		"key": key, "environment": "production", "dataBearing": true, "resource": resource("delete"),
	}
		with data.plumb.exceptions.deletion as {key}
}
