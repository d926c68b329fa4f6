package main

import (
	"context"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"time"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/control"
	"vipspeaker/pkg/orders"
	"vipspeaker/pkg/speaker"
	"vipspeaker/pkg/status"
)

// The bounds of a TTL.
const (
	shortestTTL = time.Second
	longestTTL  = 24 * time.Hour
)

// runtimeSpecs are the run-time VIPs for the configuration.
func runtimeSpecs(o *orders.Orders) []config.RuntimeVIP {
	var list []config.RuntimeVIP
	for i := range o.VIPs {
		list = append(list, config.RuntimeVIP{Name: o.VIPs[i].Name, Spec: o.VIPs[i].Spec})
	}
	return list
}

// inForce is what the configuration in force is made of.
type inForce struct {
	base  *config.Config // what the file says
	specs []config.RuntimeVIP
	// refused are those that the file leaves no room for, and why.
	refused map[string]error
}

// ordersChanged puts run-time VIPs in force; the next pass sees the rest. The store
// calls it.
func (d *daemon) ordersChanged() {
	d.merge.Lock()
	defer d.merge.Unlock()
	// Most orders are renewals: then there is nothing to do.
	if made := d.made.Load(); made != nil && !reflect.DeepEqual(made.specs, runtimeSpecs(d.orders.Orders())) {
		next, now := d.withVIPs(made.base)
		d.loop.SetVIPs(next)
		d.inForce(next, now)
	}
	d.signal.Poke()
}

// takeOver puts a file's configuration in force, with the run-time VIPs that it
// leaves room for. The lock is held.
func (d *daemon) takeOver(base *config.Config) error {
	next, made := d.withVIPs(base)
	if err := d.loop.SetConfig(next); err != nil {
		return err
	}
	d.inForce(next, made)
	return nil
}

// inForce notes what the loop has taken.
func (d *daemon) inForce(next *config.Config, made *inForce) {
	d.made.Store(made)
	d.config.Store(next)
}

// withVIPs adds the run-time VIPs to a file's configuration, and tells which of
// them have no place in it any more.
func (d *daemon) withVIPs(base *config.Config) (*config.Config, *inForce) {
	made := &inForce{base: base, specs: runtimeSpecs(d.orders.Orders())}
	next, refused := base.WithVIPs(made.specs)
	made.refused = refused
	before := d.made.Load()
	for name, err := range refused {
		if before == nil || before.refused[name] == nil {
			d.tellVIP(context.Background(), slog.LevelWarn, name, "run-time vip has no effect", err.Error())
		}
	}
	return next, made
}

// tellVIP logs and records what became of a run-time VIP.
func (d *daemon) tellVIP(ctx context.Context, level slog.Level, name, message, cause string) {
	t := speaker.Transition{
		Level: level, Attrs: []any{"vip", name, "cause", cause},
		Event: status.Event{Kind: "vip", Subject: name, Message: message, Cause: cause},
	}
	t.Tell(ctx, d.log, d.record, time.Now())
}

// expired tells about VIPs whose owner has fallen silent.
func (d *daemon) expired(names []string) {
	for _, name := range names {
		d.tellVIP(context.Background(), slog.LevelWarn, name, "run-time vip expired", "its owner did not renew it in time")
	}
}

// PutVIP implements control.Operator.
func (o *operator) PutVIP(ctx context.Context, name string, r control.VIPRequest) (*control.RuntimeVIP, error) {
	ttl := time.Duration(0)
	if r.TTL != "" {
		var err error
		if ttl, err = time.ParseDuration(r.TTL); err != nil || ttl < shortestTTL || ttl > longestTTL {
			return nil, control.Refuse(http.StatusBadRequest, "ttl %q: must be a duration from 1s to 24h", r.TTL)
		}
	}
	added := false
	err := o.d.orders.Change(func(next *orders.Orders, now time.Time) error {
		base := o.d.made.Load().base
		old, known := next.VIP(name)
		if limit := base.RuntimeVIPs.Limit; !known && len(next.VIPs) >= limit {
			return control.Refuse(http.StatusConflict, "vip %s: there are %d run-time VIPs, which is runtime_vips.limit", name, limit)
		}
		v := orders.VIP{Name: name, Spec: r.Spec, TTL: orders.Duration(ttl), Ephemeral: r.Ephemeral, Added: now}
		if added = !known || string(old.Spec) != string(v.Spec); added {
			// Those that are there keep what they have; the new one is judged last.
			others := slices.DeleteFunc(runtimeSpecs(next), func(c config.RuntimeVIP) bool { return c.Name == name })
			with, _ := base.WithVIPs(others)
			if _, refused := with.WithVIPs([]config.RuntimeVIP{{Name: name, Spec: r.Spec}}); refused[name] != nil {
				return control.Refuse(http.StatusBadRequest, "%w", refused[name])
			}
		}
		next.PutVIP(v)
		next.Renew(name, now)
		return nil
	})
	if err != nil {
		return nil, refused(err)
	}
	if added {
		o.d.tellVIP(ctx, slog.LevelInfo, name, "run-time vip added", o.d.addressOf(name))
	}
	return o.shown(name)
}

// addressOf is that of a VIP in force, empty if there is none. What came with a
// request is as long as its owner likes, and belongs into no log.
func (d *daemon) addressOf(name string) string {
	v, err := find(d.config.Load(), name)
	if err != nil {
		return ""
	}
	return v.Prefix.String()
}

// RenewVIP implements control.Operator.
func (o *operator) RenewVIP(_ context.Context, name string) (*control.RuntimeVIP, error) {
	err := o.d.orders.Change(func(next *orders.Orders, now time.Time) error {
		if !next.Renew(name, now) {
			return control.NoRuntimeVIP(name, o.RuntimeVIPs())
		}
		return nil
	})
	if err != nil {
		return nil, refused(err)
	}
	return o.shown(name)
}

// RemoveVIP implements control.Operator.
func (o *operator) RemoveVIP(ctx context.Context, name string) (*control.RuntimeVIP, error) {
	v, err := o.shown(name)
	if err != nil {
		return nil, err
	}
	err = o.d.orders.Change(func(next *orders.Orders, _ time.Time) error {
		if !next.RemoveVIP(name) {
			return control.NoRuntimeVIP(name, o.RuntimeVIPs())
		}
		return nil
	})
	if err != nil {
		return nil, refused(err)
	}
	o.d.tellVIP(ctx, slog.LevelInfo, name, "run-time vip removed", "")
	return v, nil
}

// RuntimeVIPs implements control.Operator.
func (o *operator) RuntimeVIPs() []control.RuntimeVIP {
	list := []control.RuntimeVIP{}
	made := o.d.made.Load()
	for _, v := range o.d.orders.Orders().VIPs {
		out := control.RuntimeVIP{Name: v.Name, Spec: v.Spec, Ephemeral: v.Ephemeral, Added: v.Added, Expires: v.Expires}
		if v.TTL > 0 {
			out.TTL = time.Duration(v.TTL).String()
		}
		if err := made.refused[v.Name]; err != nil {
			out.Error = err.Error()
		}
		list = append(list, out)
	}
	return list
}

// shown is a run-time VIP that there is.
func (o *operator) shown(name string) (*control.RuntimeVIP, error) {
	list := o.RuntimeVIPs()
	i := slices.IndexFunc(list, func(v control.RuntimeVIP) bool { return v.Name == name })
	if i < 0 {
		return nil, control.NoRuntimeVIP(name, list)
	}
	return &list[i], nil
}
