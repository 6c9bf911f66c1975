# METADATA
# title: Owner
# description: Somebody should answer for each resource.
package plumb.owner

warn contains {"msg": msg, "path": "/metadata"} if {
	not owned
	not input.key in data.plumb.exceptions.owner
	msg := "the label owner is missing; it says who answers for this resource"
}

owned if trim_space(input.resource.metadata.labels.owner) != ""
