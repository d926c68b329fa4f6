package speaker

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
)

// checkSpecs makes the checks of a configuration.
func checkSpecs(c *config.Config, newChecker func(config.Check) (health.Checker, error)) ([]health.Spec, error) {
	var specs []health.Spec
	for i := range c.VIPs {
		for _, check := range c.VIPs[i].Checks {
			checker, err := newChecker(check)
			if err != nil {
				return nil, fmt.Errorf("check %s/%s: %w", c.VIPs[i].Name, check.Name, err)
			}
			specs = append(specs, health.Spec{
				ID: CheckID(c.VIPs[i].Prefix, check.Name), Key: checkKey(&check), Kind: check.Kind, Checker: checker,
				Interval: check.Interval, Timeout: check.Timeout, Rise: check.Rise, Fall: check.Fall,
			})
		}
	}
	return specs, nil
}

// specsOf are the checks of those VIPs that the kernel holds. A service on an
// address that is not there yet can only fail, and would then wait for a whole
// interval.
func (s *setup) specsOf(held []netip.Prefix) []health.Spec {
	ready := map[string]bool{}
	for i := range s.config.VIPs {
		v := &s.config.VIPs[i]
		for j := range v.Checks {
			ready[CheckID(v.Prefix, v.Checks[j].Name)] = slices.Contains(held, v.Prefix)
		}
	}
	return slices.DeleteFunc(slices.Clone(s.specs), func(spec health.Spec) bool { return !ready[spec.ID] })
}

// checkKey changes when anything about the check but its schedule does. It is a
// digest, because headers and environment hold secrets and a key is none.
func checkKey(c *config.Check) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q\n", c.Kind)
	if h := c.HTTP; h != nil {
		fmt.Fprintf(&b, "%q %q %v %q %t %q\n", h.URL.String(), h.Method, h.ExpectStatus, h.ExpectBody, h.Insecure, h.CAFile)
		for _, header := range h.Headers {
			fmt.Fprintf(&b, "%q %q\n", header.Name, string(header.Value))
		}
	}
	if c.TCP != nil {
		fmt.Fprintf(&b, "%s\n", c.TCP.Address)
	}
	if c.Exec != nil {
		fmt.Fprintf(&b, "%q\n", c.Exec.Command)
		for _, entry := range c.Exec.Env {
			fmt.Fprintf(&b, "%q\n", string(entry))
		}
	}
	sum := sha256.Sum256([]byte(b.String()))
	return hex.EncodeToString(sum[:8])
}
