package vip

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// MaxMTUs is how many different MTUs the VIPs of one family can have: each has a
// return table of its own, since what is from a VIP is looked up there.
const MaxMTUs = 16

// mtuMost is the most that the kernel takes for a route (ip_metrics_convert); it
// would silently take that for more.
const mtuMost = 65520

// mtus are the distinct MTUs of the bound VIPs, sorted.
func (d *Desired) mtus(vips []netip.Prefix) []uint32 {
	var out []uint32
	for _, v := range vips {
		if m := d.MTU[v]; m != 0 && !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	slices.Sort(out)
	return out[:min(len(out), MaxMTUs)]
}

// returnTable is a return table and the VIPs that it is for.
type returnTable struct {
	table uint32
	vips  []netip.Prefix
}

// planReturns adds the routes of the return tables of the VIPs with an MTU,
// which are numbered from behind the source tables on, and tells which table is
// for which VIPs. That of the others is planned already. Where somebody else
// uses a table, its VIPs do without an MTU.
func (p *pass) planReturns(out *plan, family uint8, vips []netip.Prefix) ([]returnTable, error) {
	tables := []returnTable{{table: p.m.opts.BaseTable}}
	at := map[uint32]int{}
	for i, mtu := range p.d.mtus(vips) {
		v := newView(family, p.m.opts.BaseTable+tableCount+u32(i), netip.Addr{}, p.ports, p.s)
		v.mtu = mtu
		_, err := p.planTable(out, v)
		switch {
		case err == nil:
			at[mtu] = len(tables)
			tables = append(tables, returnTable{table: v.table})
		case errors.Is(err, errForeignTable):
			p.fail(err)
		default:
			return nil, err
		}
	}
	for _, v := range vips {
		t := &tables[at[p.d.MTU[v]]]
		t.vips = append(t.vips, v)
	}
	return tables, nil
}

// mtuOf is the MTU of a VIP, or of the bound prefix that an address is of.
func (p *pass) mtuOf(source netip.Addr, vips []netip.Prefix) uint32 {
	for _, v := range vips {
		if v.Contains(source) {
			return p.d.MTU[v]
		}
	}
	return 0
}

// limit sets the MTU of a path to remote networks: of a route with a gateway and
// of the default. A link's own network keeps the MTU of its interface. It is not
// locked, so that path MTU discovery may find that it is less. What the route or
// the interface allows is never exceeded: the kernel would build packets that
// the device drops.
func (r *route) limit(mtu uint32, s *snapshot) {
	remote := r.dst.Bits() == 0 || slices.ContainsFunc(r.legs, func(l leg) bool { return l.gateway.IsValid() })
	if mtu == 0 || r.kind != unix.RTN_UNICAST || !remote {
		return
	}
	mtu = min(mtu, mtuMost)
	if own := mtuOf(r.rest); own != 0 {
		mtu = min(mtu, own)
	}
	for _, l := range r.legs {
		if m := s.mtu(l.index); m != 0 {
			mtu = min(mtu, m)
		}
	}
	r.rest = withMTU(r.rest, mtu)
}

// mtu is that of a device, 0 if it is not known.
func (s *snapshot) mtu(index int) uint32 {
	for i := range s.links {
		if s.links[i].index == index {
			return s.links[i].mtu
		}
	}
	return 0
}

// withMTU is the rest of a route with another MTU among its metrics, which are
// sorted by their number, as the kernel tells them.
func withMTU(rest string, mtu uint32) string {
	type metric struct {
		number uint16
		value  []byte
	}
	metrics := []metric{{unix.RTAX_MTU, appendAttr32(nil, unix.RTAX_MTU, mtu)}}
	var others []byte
	for t, v := range attributes([]byte(rest)) {
		if t != unix.RTA_METRICS {
			others = appendAttr(others, t, v)
			continue
		}
		for number, value := range attributes(v) {
			if number != unix.RTAX_MTU {
				metrics = append(metrics, metric{number, appendAttr(nil, number, value)})
			}
		}
	}
	slices.SortFunc(metrics, func(a, b metric) int { return cmp.Compare(a.number, b.number) })
	var nested []byte
	for _, m := range metrics {
		nested = append(nested, m.value...)
	}
	return string(append(appendAttr(nil, unix.RTA_METRICS, nested), others...))
}

// inspectMTUs reports VIPs that want more than an interface has.
func (p *pass) inspectMTUs() {
	for _, v := range p.d.VIPs {
		mtu := p.d.MTU[v]
		for i := range p.ports {
			if have := p.s.mtu(p.ports[i].index); mtu != 0 && have != 0 && have < mtu {
				p.problem("vip %s wants an mtu of %d and interface %s has %d: that is used there", v, mtu, p.ports[i].Name, have)
			}
		}
	}
}
