package vip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// The objects that Actual.Repaired counts.
const (
	objectAddress = "address"
	objectRoute   = "route"
	objectRule    = "rule"
	objectLink    = "link"
	objectSysctl  = "sysctl"
)

// placed is what was in place after our last call. It decides nothing but
// whether something that is missing now counts as repaired.
type placed struct {
	addresses map[netip.Prefix]bool
	routes    map[routeKey]*route
	rules     map[rule]bool
	links     map[string]bool
	sysctls   map[string]bool
}

func newPlaced() placed {
	return placed{
		addresses: map[netip.Prefix]bool{}, routes: map[routeKey]*route{}, rules: map[rule]bool{},
		links: map[string]bool{}, sysctls: map[string]bool{},
	}
}

// pass is one call: what is wanted, what was read, what came of it.
type pass struct {
	//nolint:containedctx // the context of this one call, which all of its steps need
	ctx   context.Context
	m     *Manager
	d     Desired
	s     *snapshot
	ports []port
	// usable are the host addresses on our devices that work, once asked for.
	usable map[netip.Prefix]bool
	// undelivered are IPv6 addresses that would be, but for their local route.
	undelivered []netip.Prefix
	// tablesRead tells that the snapshot has rules and routes.
	tablesRead bool

	// turned are the VIPs that were bound, or unbound, in this call.
	turned []netip.Prefix
	// deleted are the devices that were deleted in this call.
	deleted []string
	a       Actual
	errs    []error
}

// port is a listed interface that exists.
type port struct {
	Interface

	index  int
	usable bool
	up     bool // the kernel takes routes through it
	// sources are those of the source rules for the interface.
	sources []netip.Addr
}

// silent tells whether no router of the family answers on the link.
func (p *port) silent(family uint8) bool {
	return p.Silent || p.Silent4 && family == unix.AF_INET || p.Silent6 && family == unix.AF_INET6
}

func (p *port) source(family uint8) netip.Addr {
	if family == unix.AF_INET {
		return p.Source4
	}
	return p.Source6
}

func (p *pass) fail(err error) { p.errs = append(p.errs, err) }

func (p *pass) problem(format string, args ...any) {
	p.a.Problems = append(p.a.Problems, fmt.Sprintf(format, args...))
}

func (p *pass) repaired(object string) { p.a.Repaired[object]++ }

// change is an operation with what is needed when it was done.
type change struct {
	operation

	// what names the change in errors. tolerate are errors that mean that
	// nothing was left to do. done, if set, is called when it is in place, and
	// told whether by us.
	what     func() string
	tolerate []unix.Errno
	done     func(written bool)
}

// apply does the changes in their order; each failure is kept, none stops the
// later ones. It returns how many are in place.
func (p *pass) apply(changes []change) int {
	ops := make([]operation, len(changes))
	for i := range changes {
		ops[i] = changes[i].operation
	}
	errs := p.m.conn.execute(p.ctx, ops)
	count := 0
	for i, c := range changes {
		err := errs[i]
		if err == nil {
			p.a.Writes++
		}
		if err != nil && !slices.ContainsFunc(c.tolerate, func(e unix.Errno) bool { return errors.Is(err, e) }) {
			p.fail(fmt.Errorf("%s: %w", c.what(), err))
			continue
		}
		count++
		if c.done != nil {
			c.done(err == nil)
		}
	}
	return count
}

// resolve finds the listed interfaces and which of them can carry traffic.
func (p *pass) resolve() {
	p.ports = nil
	for _, want := range p.d.Interfaces {
		l, ok := p.s.link(want.Name)
		if !ok {
			p.problem("interface %s does not exist", want.Name)
			continue
		}
		// The kernel refuses routes through a device that is down, and with one
		// such leg the whole route, whatever the caller knew when it decided.
		p.ports = append(p.ports, port{Interface: want, index: l.index, usable: want.Usable && l.up(), up: l.up(), sources: p.d.ruled(want.Name)})
	}
	if !slices.ContainsFunc(p.ports, func(q port) bool { return q.usable }) {
		for i := range p.ports {
			l, _ := p.s.link(p.ports[i].Name)
			p.ports[i].usable = l.up()
		}
	}
}
