# METADATA
# title: Connections
# description: One database of a shared PostgreSQL server must not be able to take all of its connections.
package plumb.connections

warn contains {"msg": msg, "path": "/spec"} if {
	shared_production
	not limited
	not unlimited
	msg := "connectionLimit is not set; in production each database should have one"
}

deny contains {"msg": msg, "path": "/spec/connectionLimit"} if {
	shared_production
	unlimited
	msg := "connectionLimit is unlimited; in production each database needs a limit"
}

shared_production if {
	input.environment == "production"
	input.provider.type == "postgres"
	input.resource.kind == "Database"
	not input.key in data.plumb.exceptions.connections
}

limited if input.resource.spec.connectionLimit >= 0

unlimited if input.resource.spec.connectionLimit == -1
