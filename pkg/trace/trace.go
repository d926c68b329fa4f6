// Package trace tells what the kernel and the routers do with a packet: which
// source a connection gets and why, by which rule, table, route, interface,
// neighbour and session a packet leaves, and by which it should come in.
//
// It asks the kernel, and explains the answer by the daemon's picture. It
// changes nothing.
package trace

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"vipspeaker/pkg/status"
	"vipspeaker/pkg/vip"
)

// Kernel looks routes up; a vip.Reader.
type Kernel interface {
	Lookup(ctx context.Context, f vip.Flow) (vip.Lookup, error)
}

// tracer holds what the parts of one trace share.
type tracer struct {
	kernel Kernel
	s      *status.Status
	out    status.Trace
}

// Out traces a packet that leaves the host. Without a source in the flow it
// tells which one the kernel takes, and why.
func Out(ctx context.Context, k Kernel, s *status.Status, f vip.Flow) (*status.Trace, error) {
	t := &tracer{kernel: k, s: s, out: status.Trace{
		Direction: status.TraceOut, To: f.To, From: f.From, User: f.User, Mark: f.Mark, Interface: f.Interface, Steps: []status.TraceStep{},
	}}
	l, err := k.Lookup(ctx, f)
	if err != nil {
		return nil, err
	}
	if f.From.IsValid() {
		t.out.Reason, t.out.Detail = status.SourceBound, "the source that was asked for"
		t.out.VIP = t.nameOf(f.From)
		if l.Unreachable != "" {
			t.out.From, t.out.Reason, t.out.Detail = netip.Addr{}, status.SourceUnreachable, l.Unreachable+", from "+f.From.String()
			// The kernel says the same of a network without a route and of a foreign source.
			if own, ownErr := k.Lookup(ctx, vip.Flow{To: f.From}); ownErr == nil && !own.Local {
				t.out.Detail = f.From.String() + " is no address of this host"
			}
		}
		t.add("packet", &l)
		return &t.out, nil
	}
	t.out.From, t.out.VIP = l.Source, t.nameOf(l.Source)
	t.out.Reason, t.out.Detail = t.why(&l, f)
	t.add("source", &l)
	if l.Unreachable != "" || l.Local || !l.Source.IsValid() {
		return &t.out, nil
	}
	// IPv4 looks up again with the source; IPv6 does when the route changes.
	f.From = l.Source
	if l, err = k.Lookup(ctx, f); err != nil {
		return nil, err
	}
	t.add("packet", &l)
	return &t.out, nil
}

// In traces packets to a VIP: by which interfaces routers know it, and whether
// the kernel takes them.
func In(ctx context.Context, k Kernel, s *status.Status, v *status.VIP, to netip.Addr) (*status.Trace, error) {
	t := &tracer{kernel: k, s: s, out: status.Trace{
		Direction: status.TraceIn, To: to, VIP: v.Name, Reason: v.Reason, Detail: v.Detail, Steps: []status.TraceStep{},
	}}
	for i := range v.Interfaces {
		on := &v.Interfaces[i]
		step := status.TraceStep{
			Name: "announced", Announced: on.Announced, Reason: on.Reason, Detail: on.Detail, NextHop: on.NextHop,
			Hops: []status.TraceHop{{Interface: on.Interface, Sessions: t.sessions(on.Interface)}},
		}
		t.out.Steps = append(t.out.Steps, step)
	}
	l, err := k.Lookup(ctx, vip.Flow{To: to})
	if err != nil {
		return nil, err
	}
	t.add("delivery", &l)
	step := &t.out.Steps[len(t.out.Steps)-1]
	if !l.Local && step.Unreachable == "" {
		step.Unreachable = "not the host's own: packets to it are not taken"
	}
	for i := range step.Hops {
		step.Hops[i].Sessions = []status.TracePeer{}
	}
	return &t.out, nil
}

// FindVIP returns the VIP of that name, else the one that has that prefix or that the
// address is of; nil if there is none.
func FindVIP(s *status.Status, text string) *status.VIP {
	i := slices.IndexFunc(s.VIPs, func(v status.VIP) bool { return v.Name == text })
	if a, err := netip.ParseAddr(text); i < 0 && err == nil {
		i = slices.IndexFunc(s.VIPs, func(v status.VIP) bool { return v.Prefix.Contains(a) })
	}
	if p, err := netip.ParsePrefix(text); i < 0 && err == nil {
		i = slices.IndexFunc(s.VIPs, func(v status.VIP) bool { return v.Prefix == p.Masked() })
	}
	if i < 0 {
		return nil
	}
	return &s.VIPs[i]
}

// nameOf is the name of the VIP that the address is of.
func (t *tracer) nameOf(a netip.Addr) string {
	for i := range t.s.VIPs {
		if t.s.VIPs[i].Prefix.Contains(a) {
			return t.s.VIPs[i].Name
		}
	}
	return ""
}

// add makes a step of a look-up.
func (t *tracer) add(name string, l *vip.Lookup) {
	step := status.TraceStep{Name: name, Unreachable: l.Unreachable, MTU: l.MTU, Route: l.Route}
	if l.Table != 0 {
		step.Table = vip.TableName(l.Table)
	}
	for _, r := range l.Rules {
		step.Rules = append(step.Rules, r.Text)
	}
	for _, h := range l.Hops {
		hop := status.TraceHop{Interface: h.Interface, Gateway: h.Gateway, Neighbour: h.Neighbour, LinkAddress: h.LinkAddress}
		hop.Sessions = t.sessions(h.Interface)
		step.Hops = append(step.Hops, hop)
	}
	t.out.Steps = append(t.out.Steps, step)
}

// sessions are those of an interface.
func (t *tracer) sessions(name string) []status.TracePeer {
	list := []status.TracePeer{}
	for i := range t.s.Peers {
		if p := &t.s.Peers[i]; p.Interface == name {
			list = append(list, status.TracePeer{Peer: p.Name(), State: p.State})
		}
	}
	return list
}

// Destination parses the address of a command line, with a zone for a link-local
// one.
func Destination(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil && strings.Contains(text, "/"):
		return a, fmt.Errorf("%q is a prefix; give one address of it", text)
	case err != nil:
		return a, fmt.Errorf("%q is no IP address, such as 192.0.2.1 or 2001:db8::1", text)
	case a.Is4In6():
		return a, fmt.Errorf("%s is an IPv4 address inside an IPv6 one; write %s", text, a.Unmap())
	case a.IsUnspecified():
		return a, fmt.Errorf("%s is no host's address", text)
	case a.Zone() != "" && !a.IsLinkLocalUnicast():
		return a, fmt.Errorf("%s has a zone, which only link-local addresses have", text)
	}
	return a, nil
}

// Mark parses a socket's mark.
func Mark(text string) (uint32, error) {
	v, err := strconv.ParseUint(text, 0, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is no mark of 32 bits, such as 16 or 0x10", text)
	}
	return uint32(v), nil
}

// on tells whether the VIP is one of an interface, also by a session without
// one.
func on(v *status.VIP, name string) bool {
	return slices.ContainsFunc(v.Interfaces, func(n status.VIPInterface) bool {
		return n.Interface == name || slices.ContainsFunc(n.Paths, func(p status.Path) bool { return p.Interface == name })
	})
}
