# METADATA
# title: Extensions
# description: Teams may have the extensions that this platform's servers have and that its people know.
package plumb.acme.extensions

known := {"citext", "hstore", "pg_trgm", "pgcrypto", "uuid-ossp"}

deny contains {"msg": msg, "path": "/spec/extensions"} if {
	some extension in input.resource.spec.extensions
	not extension in known
	msg := sprintf("the extension %s is not offered here; there are %s", [extension, concat(", ", sort(known))])
}
