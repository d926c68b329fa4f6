package config

// feature is something that a file may ask for and that others than this package
// cannot do yet.
type feature struct {
	// key is the feature's as the reference has it.
	key string
	// used returns the paths where a configuration asks for it.
	used func(*Config) []string
}

// notYet lists what is decoded and validated, and then refused, so that nothing
// in a file is ignored without a word. Whoever makes one of them work deletes its
// entry here, and in docs/configuration.md.
func notYet() []feature {
	return nil
}

// refuseReserved reports what of reserved the configuration asks for.
func refuseReserved(cfg *Config, reserved []feature, r *report) {
	for _, f := range reserved {
		for _, path := range f.used(cfg) {
			if r.ok(path) {
				r.add(path, "is not supported yet")
			}
		}
	}
}
