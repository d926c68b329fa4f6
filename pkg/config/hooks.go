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
	Timeout   time.Duration `key:"timeout" default:"10s" range:"100ms..5m"`
}

// Hooks are the commands that are run when a VIP changes its state: the absolute
// path of a program and its arguments, nil for none.
type Hooks struct {
	Announced, Withdrawn, Bound, Unbound []string
	// Timeout is how long one may run before it is killed, 100 ms to 5 min.
	Timeout time.Duration
}

func validateHooks(h *Hooks, r *report, path string) {
	for _, c := range []struct {
		key     string
		command []string
	}{{"announced", h.Announced}, {"withdrawn", h.Withdrawn}, {"bound", h.Bound}, {"unbound", h.Unbound}} {
		if place := index(path+"."+c.key, 0); len(c.command) > 0 && r.ok(place) && !filepath.IsAbs(c.command[0]) {
			r.add(place, "must be the absolute path of a program; there is no shell and no PATH")
		}
	}
}
