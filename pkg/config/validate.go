package config

import (
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// validate reports what contradicts itself. A value that has a mistake already
// is the zero value or a default, and is not judged again.
func validate(cfg *Config, r *report) {
	if id := cfg.BGP.RouterID; r.ok("bgp.router_id") && id.IsValid() && (!id.Is4() || id.IsUnspecified()) {
		r.add("bgp.router_id", "must be an IPv4 address other than 0.0.0.0")
	}
	checkTimers(cfg.BGP.Timers, Timers{}, r, "bgp.timers")
	validateDamping(cfg.Damping, r, "damping")
	if name := cfg.VirtualInterface.Name; r.ok("virtual_interface.name") {
		if problem := badInterfaceName(name); problem != "" {
			r.add("virtual_interface.name", "%s", problem)
		} else if kind := cfg.VirtualInterface.Kind; name == "lo" && (kind == "dummy" || kind == "bridge") {
			r.add("virtual_interface.kind", `must be auto or existing, for the kernel owns "lo"`)
		}
	}
	if g := cfg.BGP.GracefulRestart; r.ok("bgp.graceful_restart") && g.LongLived > 0 && !g.Enabled {
		r.add("bgp.graceful_restart.long_lived", "needs enabled: true")
	}
	validateInterfaces(cfg, r)
	validateRemotes(cfg, r)
	validateVIPs(cfg, r)
	validateDevices(cfg, r)
	validateOwnership(cfg, r)
	validateRuntime(cfg, r)
	validateReach(cfg, r)
	validateExclude(cfg, r)
	validateImport(cfg, r)
	validateHost(cfg, r)
}

// badInterfaceName says why the kernel refuses the name, or "" (dev_valid_name
// in net/core/dev.c).
func badInterfaceName(name string) string {
	switch {
	case name == "":
		return "must not be empty"
	case len(name) > 15:
		return "is longer than 15 bytes; the kernel has no such interface names"
	case name == ".", name == "..", strings.ContainsAny(name, "/:"), strings.ContainsFunc(name, unicode.IsSpace):
		return "must be an interface name, without blanks, slashes and colons"
	case strings.Contains(name, "%"):
		return "must not hold %, by which the kernel numbers new interfaces"
	case name == "all", name == "default":
		return "is what the kernel calls its settings for all interfaces; use another name"
	}
	return ""
}

// vipsPerDevice is how many addresses one virtual interface holds; others follow it,
// which are called NAME.1, NAME.2 and so on.
const vipsPerDevice = 1000

// validateDevices looks whether there are names for all virtual interfaces that the
// VIPs take.
func validateDevices(cfg *Config, r *report) {
	const place = "virtual_interface.name"
	name, kind := cfg.VirtualInterface.Name, cfg.VirtualInterface.Kind
	if kind == "existing" || name == "lo" || !r.ok("virtual_interface") {
		return // all are on that one
	}
	count := 0
	for i := range cfg.VIPs {
		if cfg.VIPs[i].Prefix.IsSingleIP() {
			count++
		}
	}
	if len(cfg.RuntimeVIPs.AllowedPrefixes) > 0 {
		count += cfg.RuntimeVIPs.Limit
	}
	last := ""
	if count > vipsPerDevice {
		last = "." + strconv.Itoa((count-1)/vipsPerDevice)
	}
	if most := 15 - len(last); len(name) > most {
		r.add(place, "must have at most %d bytes with so many VIPs: %d are on each virtual interface, and there is one called NAME%s",
			most, vipsPerDevice, last)
	}
	for i := range cfg.Interfaces {
		suffix, ok := strings.CutPrefix(cfg.Interfaces[i].Name, name+".")
		n, err := strconv.Atoi(suffix)
		if ok && err == nil && n > 0 && n <= (count-1)/vipsPerDevice && r.ok(index("interfaces", i)+".name") {
			r.add(index("interfaces", i)+".name", "is the name of a virtual interface: each holds %d VIPs, and the others are called %s.1 and so on",
				vipsPerDevice, name)
		}
	}
}

func validateInterfaces(cfg *Config, r *report) {
	seen := map[string]int{}
	for i, one := range cfg.Interfaces {
		path := index("interfaces", i)
		place := path + ".name"
		if first, double := seen[one.Name]; r.ok(place) {
			switch problem := badInterfaceName(one.Name); {
			case problem != "":
				r.add(place, "%s", problem)
			case one.Name == "lo":
				r.add(place, "must be an interface that leads to a router")
			case double:
				r.add(place, "is the name of interfaces[%d] too; list its peers there", first)
			case one.Name == cfg.VirtualInterface.Name && r.ok("virtual_interface.name"):
				r.add(place, "is the virtual interface; list the interfaces that lead to routers")
			default:
				seen[one.Name] = i
			}
		}
		validateGateways(one, r, path)
		validatePeers(one, cfg, r, path)
		validatePathProbe(one, cfg, r, path+".path_probe")
		validateDamping(one.Damping, r, path+".damping")
	}
}

func validateGateways(one Interface, r *report, path string) {
	families := map[bool]bool{}
	for k, g := range one.Gateways {
		place := index(path+".gateway", k)
		if !g.IsValid() {
			continue
		}
		if _, listed := r.lines[place]; !listed {
			place = path + ".gateway" // a lone address
		}
		switch problem := badHost(g); {
		case problem != "":
			r.add(place, "%s", problem)
		case families[g.Is4()]:
			r.add(place, "is a second gateway of its family; give one for IPv4 and one for IPv6 at most")
		}
		families[g.Is4()] = true
	}
}

func validateExclude(cfg *Config, r *report) {
	seen := map[netip.Prefix]int{}
	for i, p := range cfg.Egress.Exclude {
		place := index("egress.exclude", i)
		if !p.IsValid() {
			continue
		}
		first, double := seen[p]
		switch {
		case p.Bits() == 0:
			r.add(place, "would exclude every destination; set preferred_source: false instead")
		case double:
			r.add(place, "is listed twice, first as exclude[%d]", first)
		}
		seen[p] = i
	}
}

func validateHost(cfg *Config, r *report) {
	if l := cfg.HTTP.Listen; l != "" && r.ok("http.listen") {
		ap, err := netip.ParseAddrPort(l)
		if err != nil || ap.Port() == 0 {
			problem := `must be an IP address and a port such as 127.0.0.1:9179, or "off"`
			if host, port, err := net.SplitHostPort(l); err == nil && host == "" {
				problem += `; write "0.0.0.0:` + port + `" or "[::]:` + port + `" for all addresses`
			}
			r.add("http.listen", "%s", problem)
		}
	}
	if s := cfg.Control.Socket; r.ok("control.socket") {
		switch {
		case !filepath.IsAbs(s):
			r.add("control.socket", "must be an absolute path")
		case len(s) > 107:
			r.add("control.socket", "has %d bytes; a Unix socket's path has at most 107", len(s))
		}
	}
	s := cfg.Shutdown
	if r.ok("shutdown.time", "shutdown.wait") && s.Wait >= s.Time {
		r.add("shutdown.wait", "must be below shutdown.time, which is %s", short(s.Time))
	}
	if r.ok("shutdown.time", "shutdown.wait", "shutdown.graceful_shutdown") && s.GracefulShutdown > 0 && s.GracefulShutdown >= s.Time-s.Wait {
		r.add("shutdown.graceful_shutdown", "must be below %s, which is shutdown.time without shutdown.wait", short(s.Time-s.Wait))
	}
	if r.ok("shutdown.mode", "bgp.graceful_restart") && s.Mode == "restart" && !cfg.BGP.GracefulRestart.Enabled {
		r.add("shutdown.mode", "needs bgp.graceful_restart.enabled: true, else routers drop the routes")
	}
}

// short is d as a user writes it: 1m rather than 1m0s.
func short(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-2]
		}
	}
	return text
}

// badLabel says why a name of the user's cannot be one, or "". Names are
// arguments of commands and labels of metrics.
func badLabel(name string) string {
	plain := func(c rune) bool {
		return c > unicode.MaxASCII || !unicode.IsLetter(c) && !unicode.IsDigit(c) && !strings.ContainsRune("._:/-", c)
	}
	if name == "" || len(name) > 64 || name[0] == '-' || strings.ContainsFunc(name, plain) {
		return "must be 1 to 64 letters, digits and . _ : / -, and not begin with -"
	}
	return ""
}

// headerToken tells whether s is a token of RFC 9110 section 5.6.2, as methods
// and names of headers are.
func headerToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return c > unicode.MaxASCII || !unicode.IsLetter(c) && !unicode.IsDigit(c) && !strings.ContainsRune("!#$%&'*+-.^_`|~", c)
	})
}
