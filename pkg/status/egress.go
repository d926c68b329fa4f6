package status

import (
	"net/netip"
	"strconv"
	"strings"
)

// Egress tells about the routes that peers told.
type Egress struct {
	// Install is source or main; with main, Metric is that of the main table.
	Install string `json:"install"`
	Metric  uint32 `json:"metric,omitempty"`
	// Routes are one for each prefix of egress.import, in its order.
	Routes []Route `json:"routes"`
}

// Route is what peers told about one prefix.
type Route struct {
	Prefix netip.Prefix `json:"prefix"`
	// Main tells that the main table has it too.
	Main bool `json:"main"`
	// Static tells that all legs look dead and that the last ones stay.
	Static bool `json:"static"`
	// Legs are the paths that peers sent, used or not, also those of sessions that
	// ended; none if nobody sends one.
	Legs []Leg `json:"legs"`
}

// Leg is one path, as a way out of the host.
type Leg struct {
	// Interface is empty for a next hop on no listed interface.
	Interface string     `json:"interface"`
	NextHop   netip.Addr `json:"next_hop"`
	// Peer sent it; invalid for one that a former process knew.
	Peer netip.Addr `json:"peer,omitzero"`
	Used bool       `json:"used"`
	// Weight is 1 to 256, 0 unless used.
	Weight int `json:"weight"`
	// Reason tells why it is not used, or why it looks dead.
	Reason string `json:"reason,omitempty"`
	// MED, LocalPref and ASPathLength decide between several of an interface.
	MED          uint32 `json:"med"`
	LocalPref    uint32 `json:"local_pref"`
	ASPathLength int    `json:"as_path_length"`
	// Bandwidth is that of the link-bandwidth community in octets per second, 0
	// for none.
	Bandwidth float32 `json:"bandwidth,omitempty"`
}

// Used counts the legs in use, on one interface or for "" on all.
func (r *Route) Used(name string) int {
	n := 0
	for i := range r.Legs {
		if l := &r.Legs[i]; l.Used && (name == "" || l.Interface == name) {
			n++
		}
	}
	return n
}

// writeEgress writes one line for each leg of a learned route.
func writeEgress(b *strings.Builder, s *Status, style Style) {
	if s.Egress == nil {
		return
	}
	t := table{lines: shortened}
	t.header("LEARNED", "INTERFACE", "NEXT HOP", "PEER", "WEIGHT", "USED", "WHY")
	for i := range s.Egress.Routes {
		r := &s.Egress.Routes[i]
		name := r.Prefix.String()
		if len(r.Legs) == 0 {
			t.add(text(name), text("-"), text("-"), text("-"), text("-"), yesNo(false), text("no peer sends it"))
		}
		for j := range r.Legs {
			l := &r.Legs[j]
			weight, used := "-", yesNo(l.Used)
			if l.Used {
				weight = strconv.Itoa(l.Weight)
			}
			why := l.Reason
			if l.Used && r.Static {
				used.tone = weak
				why = "the last leg stays: " + why
			}
			on := l.Interface
			if on == "" {
				on = "-"
			}
			t.add(text(name), text(on), text(address(l.NextHop)), text(address(l.Peer)), text(weight), used, text(why))
			name = ""
		}
	}
	b.WriteByte('\n')
	t.write(b, style)
}

// egress gives the metrics of learned routes.
func (c *Collector) egress(m sink, s *Status) {
	if s.Egress == nil {
		return
	}
	d := &c.descs
	routes := 0
	for i := range s.Egress.Routes {
		r := &s.Egress.Routes[i]
		if r.Used("") > 0 {
			routes++
		}
		m.flag(d.egressStatic, r.Static, r.Prefix.String())
		for j := range s.Interfaces {
			m.gauge(d.egressLegs, float64(r.Used(s.Interfaces[j].Name)), r.Prefix.String(), s.Interfaces[j].Name)
		}
	}
	m.gauge(d.egressRoutes, float64(routes))
}
