package vip

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// shardSize is how many addresses one device holds: the kernel's cost per
// address grows with their number on the device.
const shardSize = 1000

// shardName is vi0, vi0.1, vi0.2, ...
func shardName(name string, n int) string {
	if n == 0 {
		return name
	}
	return name + "." + strconv.Itoa(n)
}

// isShard tells whether a device of ours belongs to the wanted device.
func isShard(device, name string) bool {
	if device == name {
		return true
	}
	suffix, ok := strings.CutPrefix(device, name+".")
	n, err := strconv.Atoi(suffix)
	return ok && err == nil && n > 0
}

// ourDevice tells whether we made the device: it has our alias, or the state
// file knows it.
func (p *pass) ourDevice(l link) bool {
	return l.alias == aliasMark || p.m.state.made(l)
}

// given tells whether the device is one that we use but neither make nor delete.
func (p *pass) given() bool {
	return p.d.Device.Kind == KindExisting || p.d.Device.Name == loopback
}

const loopback = "lo"

// deviceName is the device that holds the VIPs: the wanted one, or lo where
// no kind of virtual device can be made.
func (p *pass) deviceName() string {
	name := p.d.Device.Name
	if _, ok := p.s.link(name); ok || p.given() || p.d.Device.Kind != KindAuto {
		return name
	}
	lo, ok := p.s.link(loopback)
	if ok && slices.ContainsFunc(p.s.addresses, func(a address) bool { return a.index == lo.index && a.ours() }) {
		return loopback
	}
	return name
}

// devices are the existing devices on which addresses count as bound: those of
// the wanted name first, then others of ours (of a former configuration).
func (p *pass) devices() (current, former []link) {
	name := p.deviceName()
	for _, l := range p.s.links {
		switch {
		case l.name == name, isShard(l.name, name) && p.ourDevice(l):
			current = append(current, l)
		case p.ourDevice(l):
			former = append(former, l)
		}
	}
	return current, former
}

// ensureDevice makes the device exist, marked and up. It reports the name of the
// device that is there instead, which differs only for a fallback to lo.
func (p *pass) ensureDevice(name string) (string, error) {
	l, exists := p.s.link(name)
	if p.given() || name == loopback {
		if !exists {
			return "", fmt.Errorf("device %s does not exist", name)
		}
		return name, nil
	}
	if exists && !p.ourDevice(l) {
		return "", fmt.Errorf("device %s exists and is not ours: choose another name, or the kind %q", name, KindExisting)
	}
	if exists && l.alias == aliasMark && l.up() && l.flags&unix.IFF_NOARP != 0 {
		p.m.placed.links[name] = true
		return name, nil
	}
	if !exists {
		if err := p.m.state.setDevice(name, 0); err != nil {
			return "", err
		}
		if made, err := p.createDevice(name); made != name || err != nil {
			return made, err
		}
	}
	var changes []change
	for _, op := range opsConfigureLink(name) {
		changes = append(changes, change{
			operation: op,
			what:      func() string { return "configure device " + name },
			tolerate:  []unix.Errno{unix.EAFNOSUPPORT}, // no IPv6, so no address of its own
		})
	}
	if p.apply(changes) < len(changes) {
		return name, nil // the errors are kept
	}
	if p.m.placed.links[name] {
		p.repaired(objectLink)
	}
	p.m.placed.links[name] = true
	return name, nil
}

// recordDevices notes which devices of these names are the ones that we made.
func (p *pass) recordDevices(names []string) {
	for _, name := range names {
		if l, ok := p.s.link(name); ok && l.alias == aliasMark {
			if err := p.m.state.setDevice(name, l.index); err != nil {
				p.fail(err)
			}
		}
	}
}

// createDevice tries the kinds of the configuration in turn.
func (p *pass) createDevice(name string) (string, error) {
	kinds := []string{string(p.d.Device.Kind)}
	if p.d.Device.Kind == KindAuto || p.d.Device.Kind == "" {
		kinds = p.m.kinds
	}
	var err error
	for _, kind := range kinds {
		err = p.m.conn.execute(p.ctx, []operation{opCreateLink(name, kind)})[0]
		if err == nil {
			p.a.Writes++
			p.m.log.Info("virtual interface made", "device", name, "kind", kind)
			return name, nil
		}
		if !errors.Is(err, unix.EOPNOTSUPP) {
			break
		}
	}
	if _, refused := errors.AsType[unix.Errno](err); refused {
		// The kernel's word that there is none of ours: what has the name later
		// is somebody else's.
		if stateErr := p.m.state.dropDevice(name); stateErr != nil {
			p.fail(stateErr)
		}
	}
	err = fmt.Errorf("make device %s of kind %s: %w", name, strings.Join(kinds, ", "), err)
	if errors.Is(err, unix.EOPNOTSUPP) && len(kinds) > 1 {
		p.problem("no kind of virtual device can be made, lo is used")
		return loopback, nil
	}
	return "", err
}

// placement says which wanted addresses are missing and on which device each
// should be: those that are there stay where they are.
type placement struct {
	names   []string // devices in use, in order
	missing map[string][]netip.Prefix
}

func (p *pass) place() placement {
	name := p.deviceName()
	current, _ := p.devices()
	there, count := map[netip.Prefix]bool{}, map[string]int{}
	for _, a := range p.s.addresses {
		i := slices.IndexFunc(current, func(l link) bool { return l.index == a.index })
		if i >= 0 {
			there[a.vip()] = true
			count[current[i].name]++
		}
	}
	out := placement{missing: map[string][]netip.Prefix{}}
	for _, l := range current {
		out.names = append(out.names, l.name)
	}
	shard := 0
	for _, v := range p.d.VIPs {
		if !v.IsSingleIP() || there[v] {
			continue
		}
		there[v] = true // named twice
		for !p.given() && name != loopback && count[shardName(name, shard)] >= shardSize {
			shard++
		}
		target := shardName(name, shard)
		count[target]++
		out.missing[target] = append(out.missing[target], v)
		if !slices.Contains(out.names, target) {
			out.names = append(out.names, target)
		}
	}
	if !slices.Contains(out.names, name) && len(p.d.VIPs) > 0 {
		out.names = append(out.names, name)
	}
	return out
}
