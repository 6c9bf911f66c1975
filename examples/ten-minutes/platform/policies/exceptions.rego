# METADATA
# title: Exceptions
# description: Resources that a built-in policy does not speak of. The set's name is the policy's.
package plumb.exceptions

# The reporting database of production may grow as it likes until its own server is there.
connections contains "checkout/production/Database/reports"
