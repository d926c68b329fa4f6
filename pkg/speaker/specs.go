package speaker

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
)

// checkSpecs makes the checks of a configuration. Those that are the same run
// once, for all VIPs that have them: ids gives the IDs of each VIP's.
func checkSpecs(c *config.Config, newChecker func(config.Check) (health.Checker, error)) (specs []health.Spec, ids map[netip.Prefix][]string, err error) {
	ids = make(map[netip.Prefix][]string, len(c.VIPs))
	made := map[string]bool{}
	for i := range c.VIPs {
		v := &c.VIPs[i]
		ids[v.Prefix] = checkIDs(v)
		for j, id := range ids[v.Prefix] {
			if made[id] {
				continue
			}
			made[id] = true
			check := &v.Checks[j]
			checker, err := newChecker(*check)
			if err != nil {
				return nil, nil, fmt.Errorf("check %s/%s: %w", v.Name, check.Name, err)
			}
			specs = append(specs, health.Spec{
				ID: id, Name: v.Name + "/" + check.Name, Key: checkKey(check) + rootsKey(check), Kind: check.Kind, Checker: checker,
				Interval: check.Interval, Timeout: check.Timeout, FastInterval: check.FastInterval,
				Rise: check.Rise, Fall: check.Fall,
			})
		}
	}
	return specs, ids, nil
}

// CheckID is the name under which a check is run. Checks that ask for the same on
// the same schedule have the same, whichever VIP's they are.
func CheckID(c *config.Check) string {
	text := fmt.Sprintf("%s %s %s %s %d %d", checkKey(c), c.Interval, c.FastInterval, c.Timeout, c.Rise, c.Fall)
	return c.Kind + ":" + digest(text)
}

func checkIDs(v *config.VIP) []string {
	list := make([]string, len(v.Checks))
	for i := range v.Checks {
		list[i] = CheckID(&v.Checks[i])
	}
	return list
}

// specsOf are the checks of those VIPs that the kernel holds. A service on an
// address that is not there yet can only fail, and would then wait for a whole
// interval.
func (s *setup) specsOf(held []netip.Prefix) []health.Spec {
	ready := map[string]bool{}
	for i := range s.config.VIPs {
		if prefix := s.config.VIPs[i].Prefix; slices.Contains(held, prefix) {
			for _, id := range s.checkIDs[prefix] {
				ready[id] = true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(s.specs), func(spec health.Spec) bool { return !ready[spec.ID] })
}

// check tells the runner of checks what to run, if that is not what it was told
// last. Checks of VIPs that were not bound yet wait for the
// first try to do so.
func (l *Loop) check(probes []Probe) {
	specs := l.applied.specs
	if !l.checking {
		specs = l.applied.specsOf(l.actual.Bound)
	}
	specs = append(slices.Clip(specs), l.probeSpecs(probes)...)
	if !slices.EqualFunc(specs, l.ordered, sameSpec) {
		l.opt.Checks.Set(specs)
		l.ordered = specs
	}
}

// probeSpecs makes checks of probes. One that cannot be made is left out, and
// said with the pass: it is not known to be dead.
func (l *Loop) probeSpecs(probes []Probe) []health.Spec {
	if l.opt.NewProbe == nil {
		return nil
	}
	made := make(map[Probe]health.Checker, len(probes))
	var specs []health.Spec
	for _, b := range probes {
		checker, ok := l.probes[b]
		if !ok {
			var err error
			if checker, err = l.opt.NewProbe(b); err != nil {
				l.failed("probe", fmt.Errorf("%s of %s on %s: %w", b.Layer, b.Target, b.Interface, err))
				continue
			}
		}
		made[b] = checker
		specs = append(specs, b.spec(checker))
	}
	l.probes = made
	return specs
}

// sameSpec tells whether two specs ask for the same; who does it is no matter.
func sameSpec(a, b health.Spec) bool {
	a.Checker, b.Checker = nil, nil
	return a == b
}

// checkKey changes when anything about the check but its schedule does. It is a
// digest, because headers and environment hold secrets and a key is none.
func checkKey(c *config.Check) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q %s\n", c.Kind, c.Source)
	if h := c.HTTP; h != nil {
		fmt.Fprintf(&b, "%q %q %v %q %t %q %q %t\n", h.URL.String(), h.Method, h.ExpectStatus, h.ExpectBody, h.Insecure, h.CAFile, h.ServerName, h.Hold)
		for _, header := range h.Headers {
			fmt.Fprintf(&b, "%q %q\n", header.Name, string(header.Value))
		}
	}
	if c.TCP != nil {
		fmt.Fprintf(&b, "%s %t\n", c.TCP.Address, c.TCP.Hold)
	}
	if c.Exec != nil {
		fmt.Fprintf(&b, "%q %q\n", c.Name, c.Exec.Command) // the program is told its name
		for _, entry := range c.Exec.Env {
			fmt.Fprintf(&b, "%q\n", string(entry))
		}
	}
	if d := c.DNS; d != nil {
		fmt.Fprintf(&b, "%s %q %q %q %q %q\n", d.Server, d.Query, d.Type, d.Transport, d.ExpectRcode, d.Expect)
	}
	if g := c.GRPC; g != nil {
		fmt.Fprintf(&b, "%s %q %t %t %t %q %q\n", g.Address, g.Service, g.Hold, g.TLS, g.Insecure, g.CAFile, g.ServerName)
	}
	if c.ICMP != nil {
		fmt.Fprintf(&b, "%s\n", c.ICMP.Address)
	}
	if w := c.Listen; w != nil {
		fmt.Fprintf(&b, "%d %q %s\n", w.Port, w.Protocol, w.Address)
	}
	return digest(b.String())
}

// rootsKey changes when the file of roots of a check does; empty without one. It
// is no part of the ID, which says what a VIP has, not what is in files.
func rootsKey(c *config.Check) string {
	path := ""
	switch {
	case c.HTTP != nil:
		path = c.HTTP.CAFile
	case c.GRPC != nil:
		path = c.GRPC.CAFile
	}
	if path == "" {
		return ""
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return " " + err.Error() // whoever makes the check says it
	}
	return " " + digest(string(data))
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}
