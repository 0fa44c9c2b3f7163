package compile

// Patched says whether the compiler's classes have been changed since they were made.
func Patched(c *Compiler) bool { return c.patched }
