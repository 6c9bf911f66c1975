# METADATA
# title: Deletion
# description: |
#   Data in production is not one annotation away from deletion. The way out takes two people: the platform's own
#   module names the key in plumb.exceptions, then the tenant's commit may set the annotation, and a later one remove
#   the document.
package plumb.deletion

deny contains {"msg": msg, "path": "/metadata/annotations/plumb.dev~1deletion"} if {
	input.environment == "production"
	input.dataBearing
	input.resource.metadata.annotations["plumb.dev/deletion"] == "delete"
	not input.key in data.plumb.exceptions.deletion
	msg := sprintf("%s holds data in production and may not say plumb.dev/deletion: delete; a platform engineer can allow it by naming the key in data.plumb.exceptions.deletion", [input.key])
}
