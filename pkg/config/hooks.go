package config

import (
	"path/filepath"
	"time"
)

type rawHooks struct {
	Announced []string      `key:"announced" hint:"there is no shell: write a list such as [/usr/local/bin/notify, up]"`
	Withdrawn []string      `key:"withdrawn" hint:"there is no shell: write a list such as [/usr/local/bin/notify, down]"`
	Bound     []string      `key:"bound" hint:"there is no shell: write a list such as [/usr/local/bin/notify, up]"`
	Unbound   []string      `key:"unbound" hint:"there is no shell: write a list such as [/usr/local/bin/notify, down]"`
	Owner     []string      `key:"owner" hint:"there is no shell: write a list such as [/usr/local/bin/notify, up]"`
	Lost      []string      `key:"lost" hint:"there is no shell: write a list such as [/usr/local/bin/notify, down]"`
	Timeout   time.Duration `key:"timeout" default:"10s" range:"100ms..5m"`
}

// Hooks are the commands that are run when a VIP changes its state: the absolute
// path of a program and its arguments, nil for none.
type Hooks struct {
	Announced, Withdrawn, Bound, Unbound []string
	// Owner and Lost are for a VIP with one owner.
	Owner, Lost []string
	// Timeout is how long one may run before it is killed, 100 ms to 5 min.
	Timeout time.Duration
}

// validateHooks refuses commands that could not run, or never would.
func validateHooks(cfg *Config, v *VIP, r *report, path string) {
	on := path + ".on"
	for _, c := range []struct {
		key     string
		command []string
		owned   bool // for a VIP with one owner
	}{
		{"announced", v.On.Announced, false},
		{"withdrawn", v.On.Withdrawn, false},
		{"bound", v.On.Bound, false},
		{"unbound", v.On.Unbound, false},
		{"owner", v.On.Owner, true},
		{"lost", v.On.Lost, true},
	} {
		place := on + "." + c.key
		if len(c.command) == 0 {
			continue
		}
		if first := index(place, 0); r.ok(first) && !filepath.IsAbs(c.command[0]) {
			r.add(first, "must be the absolute path of a program; there is no shell and no PATH")
		}
		switch {
		case !c.owned:
		case !v.Exclusive && r.ok(path+".exclusive"):
			r.add(place, "is never run, for nobody owns a VIP that is not exclusive")
		case cfg.Ownership == nil && r.ok(ownershipPath):
			r.add(place, "is never run, for nobody owns a VIP without the section ownership")
		}
	}
}
