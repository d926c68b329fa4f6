// Package orders owns what operators and applications order at run time, and
// what a restart must not forget: which VIPs are drained, and VIPs that are not
// in the configuration.
//
// A Store holds an immutable snapshot, writes each change to a file before it
// counts, and says when there is another snapshot. It knows nothing of what is
// announced and decides nothing.
package orders

import (
	"encoding/json"
	"net/netip"
	"slices"
	"time"
)

// Orders is a snapshot. Nobody changes one that was published; lists are in the
// order in which they were given.
//
// A new kind of order is a new field with a key of its own: versions that do not
// know the key keep what is in it. A change of what a key means needs another
// Version, which older ones refuse.
type Orders struct {
	// Drains are those of single VIPs, at most one for each prefix.
	Drains []Drain `json:"drains,omitempty"`
	// All is nil, or drains every VIP that Drains has nothing about.
	All *DrainAll `json:"drain_all,omitempty"`
	// VIPs are those that were added at run time; names are unique.
	VIPs []VIP `json:"vips,omitempty"`
	// Damage is why the file of a former process cannot be read, empty if it can.
	// Every VIP counts as drained then: which ones were is not known.
	Damage string `json:"-"`
}

// Drain is the order to take one VIP out of use.
type Drain struct {
	Prefix netip.Prefix `json:"prefix"`
	// Name is what the VIP was called when the order was given.
	Name   string `json:"name"`
	Reason string `json:"reason,omitempty"`
	// Since is when the order was given. Until Withdraw the VIP is still announced
	// as about to go. That is fixed with the order, so that no later change of the
	// configuration announces the VIP again.
	Since    time.Time `json:"since"`
	Withdraw time.Time `json:"withdraw"`
	// Until is when the order ends by itself, zero for never.
	Until time.Time `json:"until,omitzero"`
}

// DrainAll is the order to take every VIP out of use, also those that are
// configured later.
type DrainAll struct {
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until,omitzero"`
	// Except are VIPs that were undrained since.
	Except []netip.Prefix `json:"except,omitempty"`
}

// VIP is one that was added at run time.
type VIP struct {
	Name string `json:"name"`
	// Spec is the entry as the configuration would have it, a JSON object.
	Spec json.RawMessage `json:"spec"`
	// TTL is how long the VIP lives without being renewed, 0 for ever.
	TTL Duration `json:"ttl,omitzero"`
	// Ephemeral VIPs are not in the file.
	Ephemeral bool      `json:"-"`
	Added     time.Time `json:"added"`
	// Expires is when it goes unless it is renewed, zero for never. After a start
	// its owner has one TTL to do so.
	Expires time.Time `json:"-"`
}

// Duration is a time.Duration that is written as text, such as 10s.
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// DrainOf returns the drain that is in force for a VIP at a time. Who asks for many
// asks At.
func (o *Orders) DrainOf(prefix netip.Prefix, now time.Time) (Drain, bool) {
	return o.At(now).DrainOf(prefix)
}

func over(until, now time.Time) bool { return !until.IsZero() && !now.Before(until) }

// Drain adds the order for a VIP, or makes that which is there already this one:
// it then goes on from where it is.
func (o *Orders) Drain(d Drain) {
	if old, ok := o.DrainOf(d.Prefix, d.Since); ok {
		d.goesOn(&old)
	}
	o.drop(d.Prefix)
	o.Drains = append(o.Drains, d)
	if o.All != nil {
		all := *o.All
		all.Except = slices.DeleteFunc(slices.Clone(all.Except), func(p netip.Prefix) bool { return p == d.Prefix })
		o.All = &all
	}
}

// DrainEvery orders the drain of all VIPs: of those that are known as given, of
// others from the begin on. An order for one of them that lasts longer stays.
func (o *Orders) DrainEvery(known []Drain, all DrainAll) {
	before := o.At(all.Since)
	again := make(map[netip.Prefix]bool, len(known))
	for i := range known {
		again[known[i].Prefix] = true
	}
	list := slices.DeleteFunc(slices.Clone(o.Drains), func(d Drain) bool { return again[d.Prefix] })
	for _, d := range known {
		if old, ok := before.DrainOf(d.Prefix); ok {
			if !d.Until.IsZero() && (old.Until.IsZero() || old.Until.After(d.Until)) {
				d.Until, d.Reason = old.Until, old.Reason
			}
			d.goesOn(&old)
		}
		list = append(list, d)
	}
	o.Drains, o.All = list, &all
}

// Undrain ends the drain of one VIP. It tells whether there was one.
func (o *Orders) Undrain(prefix netip.Prefix, now time.Time) bool {
	_, was := o.DrainOf(prefix, now)
	o.drop(prefix)
	if o.All != nil {
		all := *o.All
		if all.Except = slices.Clone(all.Except); !slices.Contains(all.Except, prefix) {
			all.Except = append(all.Except, prefix)
		}
		o.All = &all
	}
	return was
}

// UndrainEvery ends all drains.
func (o *Orders) UndrainEvery() { o.Drains, o.All = nil, nil }

func (o *Orders) drop(prefix netip.Prefix) {
	o.Drains = slices.DeleteFunc(slices.Clone(o.Drains), func(d Drain) bool { return d.Prefix == prefix })
}

// VIP finds a run-time VIP by its name.
func (o *Orders) VIP(name string) (VIP, bool) {
	i := slices.IndexFunc(o.VIPs, func(v VIP) bool { return v.Name == name })
	if i < 0 {
		return VIP{}, false
	}
	return o.VIPs[i], true
}

// PutVIP adds a run-time VIP, or takes the place of the one of its name.
func (o *Orders) PutVIP(v VIP) {
	o.VIPs = slices.Clone(o.VIPs)
	if i := slices.IndexFunc(o.VIPs, func(old VIP) bool { return old.Name == v.Name }); i >= 0 {
		v.Added = o.VIPs[i].Added
		o.VIPs[i] = v
		return
	}
	o.VIPs = append(o.VIPs, v)
}

// RemoveVIP removes a run-time VIP. It tells whether there was one.
func (o *Orders) RemoveVIP(name string) bool {
	n := len(o.VIPs)
	o.VIPs = slices.DeleteFunc(slices.Clone(o.VIPs), func(v VIP) bool { return v.Name == name })
	return len(o.VIPs) < n
}

// Renew lets a run-time VIP live for another TTL. It tells whether there is such
// a VIP.
func (o *Orders) Renew(name string, now time.Time) bool {
	i := slices.IndexFunc(o.VIPs, func(v VIP) bool { return v.Name == name })
	if i < 0 {
		return false
	}
	o.VIPs = slices.Clone(o.VIPs)
	o.VIPs[i].Expires = o.VIPs[i].end(now)
	return true
}

// end is when a VIP that was heard of now expires.
func (v *VIP) end(now time.Time) time.Time {
	if v.TTL == 0 {
		return time.Time{}
	}
	return now.Add(time.Duration(v.TTL))
}

// purge removes what is over and returns the names of the VIPs that expired.
func (o *Orders) purge(now time.Time) (expired []string) {
	o.Drains = slices.DeleteFunc(slices.Clone(o.Drains), func(d Drain) bool { return over(d.Until, now) })
	if o.All != nil && over(o.All.Until, now) {
		o.All = nil
	}
	o.VIPs = slices.DeleteFunc(slices.Clone(o.VIPs), func(v VIP) bool {
		if over(v.Expires, now) {
			expired = append(expired, v.Name)
			return true
		}
		return false
	})
	return expired
}

// next is when something is over by itself, zero for never.
func (o *Orders) next() (at time.Time) {
	note := func(t time.Time) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	for i := range o.Drains {
		note(o.Drains[i].Until)
	}
	if o.All != nil {
		note(o.All.Until)
	}
	for i := range o.VIPs {
		note(o.VIPs[i].Expires)
	}
	return at
}
