package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/control"
	"vipspeaker/pkg/orders"
	"vipspeaker/pkg/speaker"
	"vipspeaker/pkg/status"
)

// longestReason bounds the reason of an order, in bytes.
const longestReason = 200

// allVIPs is the subject of an event about an order for every VIP.
const allVIPs = "all VIPs"

// operator carries out the orders that come by the control socket.
type operator struct{ d *daemon }

// Drain implements control.Operator.
func (o *operator) Drain(ctx context.Context, r control.DrainRequest) (*control.DrainResult, error) {
	lasts, err := o.check(r)
	if err != nil {
		return nil, err
	}
	c := o.d.config.Load()
	targets := c.VIPs
	if !r.All {
		v, unknown := find(c, r.VIP)
		if unknown != nil {
			return nil, unknown
		}
		targets = []config.VIP{*v}
	}
	out := &control.DrainResult{VIPs: []control.DrainedVIP{}}
	err = o.d.orders.Change(func(next *orders.Orders, now time.Time) error {
		until := time.Time{}
		if lasts > 0 {
			until = now.Add(lasts)
		}
		before := *next
		var list []orders.Drain
		for i := range targets {
			v := &targets[i]
			list = append(list, orders.Drain{
				Prefix: v.Prefix, Name: v.Name, Reason: r.Reason, Since: now, Withdraw: now.Add(v.Drain.Time), Until: until,
			})
		}
		if r.All {
			next.DrainEvery(list, orders.DrainAll{Reason: r.Reason, Since: now, Until: until})
		} else {
			next.Drain(list[0])
		}
		then, after := before.At(now), next.At(now)
		for _, d := range list {
			_, was := then.DrainOf(d.Prefix)
			is, _ := after.DrainOf(d.Prefix)
			out.VIPs = append(out.VIPs, control.DrainedVIP{
				Name: d.Name, Prefix: d.Prefix, Changed: !was, Withdraw: is.Withdraw, Until: is.Until,
			})
		}
		return nil
	})
	if err != nil {
		return nil, refused(err)
	}
	o.tell(ctx, "drain ordered", r, out)
	o.d.shown(ctx)
	return out, nil
}

// Undrain implements control.Operator.
func (o *operator) Undrain(ctx context.Context, r control.DrainRequest) (*control.DrainResult, error) {
	if _, err := o.check(r); err != nil {
		return nil, err
	}
	if r.Reason != "" || r.For != "" {
		return nil, control.Refuse(http.StatusBadRequest, "an undrain has no reason and lasts for ever")
	}
	out := &control.DrainResult{VIPs: []control.DrainedVIP{}}
	before, change := o.d.orders.Orders(), o.d.orders.Change
	if r.All {
		change = o.d.orders.Reset
	}
	err := change(func(next *orders.Orders, now time.Time) error {
		c, then := o.d.config.Load(), before.At(now)
		list := drainable(c, next)
		if !r.All {
			list = called(list, r.VIP)
		}
		for _, v := range list {
			_, v.Changed = then.DrainOf(v.Prefix)
			out.VIPs = append(out.VIPs, v)
		}
		switch {
		case r.All:
			next.UndrainEvery()
		case len(list) == 0:
			return noVIP(c, r.VIP)
		default:
			next.Undrain(list[0].Prefix, now)
		}
		return nil
	})
	if err != nil {
		return nil, refused(err)
	}
	o.tell(ctx, "undrain ordered", r, out)
	o.d.shown(ctx)
	return out, nil
}

// refused gives an error of the store the status of its answer.
func refused(err error) error {
	if errors.Is(err, orders.ErrDamaged) {
		return control.Refuse(http.StatusConflict, "%w", err)
	}
	return err
}

// called is the VIP of that name, else of that address or prefix, as find has it;
// none if there is none.
func called(list []control.DrainedVIP, name string) []control.DrainedVIP {
	i := slices.IndexFunc(list, func(v control.DrainedVIP) bool { return v.Name == name })
	if i < 0 {
		i = slices.IndexFunc(list, func(v control.DrainedVIP) bool { return named(v.Prefix, name) })
	}
	if i < 0 {
		return nil
	}
	return list[i : i+1]
}

// drainable are the VIPs that are configured, and those that orders are about.
func drainable(c *config.Config, next *orders.Orders) []control.DrainedVIP {
	var list []control.DrainedVIP
	seen := map[netip.Prefix]bool{}
	for i := range c.VIPs {
		seen[c.VIPs[i].Prefix] = true
		list = append(list, control.DrainedVIP{Name: c.VIPs[i].Name, Prefix: c.VIPs[i].Prefix})
	}
	for _, d := range next.Drains {
		if !seen[d.Prefix] {
			list = append(list, control.DrainedVIP{Name: d.Name, Prefix: d.Prefix})
		}
	}
	return list
}

// check refuses a request that is none, and returns how long it is for.
func (o *operator) check(r control.DrainRequest) (time.Duration, error) {
	switch {
	case r.All && r.VIP != "":
		return 0, control.Refuse(http.StatusBadRequest, "vip %q and all: give one of them", r.VIP)
	case !r.All && r.VIP == "":
		return 0, control.Refuse(http.StatusBadRequest, "give a vip, or all")
	case len(r.Reason) > longestReason || strings.ContainsFunc(r.Reason, func(c rune) bool { return !unicode.IsPrint(c) }):
		return 0, control.Refuse(http.StatusBadRequest, "reason %q: must be one line of at most %d bytes", r.Reason, longestReason)
	case r.For == "":
		return 0, nil
	}
	lasts, err := time.ParseDuration(r.For)
	if err != nil || lasts <= 0 {
		return 0, control.Refuse(http.StatusBadRequest, "for %q: must be a duration such as 2h or 30m", r.For)
	}
	return lasts, nil
}

// tell logs and records an order.
func (o *operator) tell(ctx context.Context, message string, r control.DrainRequest, out *control.DrainResult) {
	subject := allVIPs
	if !r.All {
		subject = out.VIPs[0].Name
	}
	t := speaker.Transition{
		Level: slog.LevelInfo, Attrs: []any{"vip", subject, "reason", r.Reason, "for", r.For},
		Event: status.Event{Kind: "vip", Subject: subject, Message: message, Cause: r.Reason},
	}
	t.Tell(ctx, o.d.log, o.d.record, time.Now())
}

// find returns the VIP of that name, else of that address or prefix.
func find(c *config.Config, name string) (*config.VIP, error) {
	for i := range c.VIPs {
		if c.VIPs[i].Name == name {
			return &c.VIPs[i], nil
		}
	}
	for i := range c.VIPs {
		if named(c.VIPs[i].Prefix, name) {
			return &c.VIPs[i], nil
		}
	}
	return nil, noVIP(c, name)
}

// vipOf returns the VIP of that name, else of that address or prefix, as it is
// configured and as the last pass left it.
func (d *daemon) vipOf(name string) (*config.VIP, *status.VIP, error) {
	if name == "" {
		return nil, nil, control.Refuse(http.StatusBadRequest, "give a vip")
	}
	c, err := find(d.config.Load(), name)
	if err != nil {
		return nil, nil, err
	}
	if s := d.store.Load(); s != nil {
		for i := range s.VIPs {
			if s.VIPs[i].Prefix == c.Prefix {
				return c, &s.VIPs[i], nil
			}
		}
	}
	return nil, nil, control.Refuse(http.StatusServiceUnavailable, "%s is new: no pass with it has ended yet", c.Name)
}

// noVIP is the answer to who names a VIP that there is not.
func noVIP(c *config.Config, name string) error {
	if len(c.VIPs) == 0 {
		return control.Refuse(http.StatusNotFound, "no VIP %q: none is configured", name)
	}
	known := make([]string, len(c.VIPs))
	for i := range c.VIPs {
		known[i] = c.VIPs[i].Name
	}
	return control.Refuse(http.StatusNotFound, "no VIP %q: the VIPs are %s", name, status.Names(known))
}

// named tells whether a text is the address or the prefix of a VIP.
func named(prefix netip.Prefix, text string) bool {
	if a, err := netip.ParseAddr(text); err == nil {
		return prefix == netip.PrefixFrom(a, a.BitLen())
	}
	p, err := netip.ParsePrefix(text)
	return err == nil && prefix == p.Masked()
}
