package orders

import (
	"net/netip"
	"time"
)

// InForce are the drains that are in force at a time, found without a look at all
// of them.
type InForce struct {
	drains map[netip.Prefix]*Drain
	damage string
	all    *DrainAll
	except map[netip.Prefix]bool
}

// At returns the drains that are in force at a time; none if o is nil.
func (o *Orders) At(now time.Time) *InForce {
	f := &InForce{}
	if o == nil {
		return f
	}
	f.damage, f.drains = o.Damage, make(map[netip.Prefix]*Drain, len(o.Drains))
	for i := range o.Drains {
		if d := &o.Drains[i]; f.drains[d.Prefix] == nil && !over(d.Until, now) {
			f.drains[d.Prefix] = d
		}
	}
	if o.All == nil || over(o.All.Until, now) {
		return f
	}
	f.all, f.except = o.All, make(map[netip.Prefix]bool, len(o.All.Except))
	for _, p := range o.All.Except {
		f.except[p] = true
	}
	return f
}

// DrainOf returns the drain of a VIP.
func (f *InForce) DrainOf(prefix netip.Prefix) (Drain, bool) {
	if d := f.drains[prefix]; d != nil {
		return *d, true
	}
	if f.damage != "" {
		return Drain{Prefix: prefix, Reason: f.damage + "; 'vipspeaker undrain --all' puts the file aside and begins anew"}, true
	}
	if a := f.all; a != nil && !f.except[prefix] {
		return Drain{Prefix: prefix, Reason: a.Reason, Since: a.Since, Withdraw: a.Since, Until: a.Until}, true
	}
	return Drain{}, false
}

// goesOn makes an order one that goes on from where the one before it is.
func (d *Drain) goesOn(old *Drain) {
	if old.Withdraw.IsZero() {
		return // nobody knows where
	}
	d.Since = old.Since
	if old.Withdraw.Before(d.Withdraw) {
		d.Withdraw = old.Withdraw
	}
}
