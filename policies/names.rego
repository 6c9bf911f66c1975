# METADATA
# title: Names
# description: Names that mislead, or that collide with what servers already have.
package plumb.names

# One text: a set would be built anew for each resource.
reserved := " admin default information-schema mysql pg-catalog plumb postgres public root sys system template0 template1 "

deny contains {"msg": msg, "path": "/metadata/name"} if {
	name := input.resource.metadata.name
	contains(reserved, concat("", [" ", name, " "]))
	not input.key in data.plumb.exceptions.names
	msg := sprintf("the name \"%s\" is reserved: servers use it for their own", [name])
}

# On a server dashes become underscores; two in a row read like one, and look like the border between the parts of a name.
deny contains {"msg": msg, "path": "/metadata/name"} if {
	name := input.resource.metadata.name
	contains(name, "--")
	not input.key in data.plumb.exceptions.names
	msg := sprintf("the name \"%s\" has two dashes in a row; use one", [name])
}
