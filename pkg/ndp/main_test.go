package ndp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"vipspeaker/test/netnstest"
)

// patience bounds everything that other hosts and daemons may take time for.
const patience = 20 * time.Second

// ours is a Manager that runs in the test's own namespace.
type ours struct {
	t     *testing.T
	m     *Manager
	pokes atomic.Int64
	told  atomic.Pointer[State] // what there was at the last poke, which is counted
	end   func()
}

// run starts a Manager and checks at its end that nothing of it is left.
func run(t *testing.T, interfaces ...string) *ours {
	t.Helper()
	routines, files := runtime.NumGoroutine(), openFiles(t)
	o := &ours{t: t}
	o.m = New(Options{Poke: func() {
		o.pokes.Add(1)
		o.told.Store(o.m.State())
	}})
	o.m.Set(interfaces)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.m.Run(ctx) }()
	ended := false
	o.end = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		netnstest.Until(t, patience, func() error {
			if r, f := runtime.NumGoroutine(), openFiles(t); r > routines || f > files {
				return fmt.Errorf("%d goroutines and %d files are left, there were %d and %d", r, f, routines, files)
			}
			return nil
		})
	}
	t.Cleanup(o.end)
	return o
}

// openFiles counts the sockets of the process.
func openFiles(t *testing.T) int {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

func (o *ours) iface(name string) Interface {
	o.t.Helper()
	i, _ := o.m.State().Interface(name)
	return i
}

// await waits until a poke has told that the interface is as ok says, and returns how
// it is then.
func (o *ours) await(name, what string, ok func(Interface) bool) Interface {
	o.t.Helper()
	var i Interface
	netnstest.Until(o.t, patience, func() error {
		if i, _ = o.told.Load().Interface(name); !ok(i) {
			return fmt.Errorf("%s is not %s: %+v", name, what, i)
		}
		return nil
	})
	return i
}

// awaitRouters waits until the interface has exactly the routers, in order.
func (o *ours) awaitRouters(name string, want ...Router) Interface {
	o.t.Helper()
	return o.await(name, fmt.Sprintf("one with routers %+v", want), func(i Interface) bool {
		if len(i.Routers) != len(want) {
			return false
		}
		for n := range want {
			if !sameRouter(i.Routers[n], want[n]) {
				return false
			}
		}
		return true
	})
}

func (o *ours) awaitError(name, part string) Interface {
	o.t.Helper()
	return o.await(name, "one with error "+part, func(i Interface) bool { return strings.Contains(i.Error, part) && (part != "" || i.Error == "") })
}

// advertises is a router that advertises itself on the interface.
func advertises(a netip.Addr, name string) Router {
	return Router{Address: a.WithZone(name), ByAdvertisement: true, Flagged: true}
}

// linkLocal waits for the usable link-local address of a device.
func linkLocal(t *testing.T, ns netnstest.NS, device string) netip.Addr {
	t.Helper()
	var a netip.Addr
	netnstest.Until(t, patience, func() error {
		out := ns.IP("-6 -o addr show dev %s scope link -tentative", device)
		f := strings.Fields(out)
		if len(f) < 4 {
			return errors.New("no link-local address on " + device)
		}
		p, err := netip.ParsePrefix(f[3])
		a = p.Addr()
		return err
	})
	return a
}
