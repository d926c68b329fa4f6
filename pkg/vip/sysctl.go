package vip

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// setting is a sysctl of a listed interface that the promise needs.
type setting struct {
	family, key string
	value       string
	// wrong judges the interface's value and that of conf/all, of which the
	// kernel takes the larger where it looks at both.
	wrong func(all, own int) bool
	why   string
}

func settings() []setting {
	unset := func(_, own int) bool { return own == 0 }
	return []setting{
		{
			"ipv4", "arp_announce", "2",
			func(all, own int) bool { return max(all, own) < 2 },
			"ARP requests would name the VIP as sender, and be ignored by routers without a route to it",
		},
		{
			"ipv4", "rp_filter", "2",
			func(all, own int) bool { return max(all, own) == 1 },
			"packets that arrive by another path than the reply's would be dropped",
		},
		{"ipv4", "ignore_routes_with_linkdown", "1", unset, "routes without carrier would still be used"},
		{"ipv6", "ignore_routes_with_linkdown", "1", unset, "routes without carrier would still be used"},
	}
}

func (r *sysctlRecord) same(o *sysctlRecord) bool {
	return r.Index == o.Index && r.Family == o.Family && r.Key == o.Key
}

func sysctlPath(family, name, key string) string {
	return "/proc/sys/net/" + family + "/conf/" + name + "/" + key
}

// sysctls makes the settings of the listed interfaces right, if it is to, and
// gives back those that we no longer need.
func (p *pass) sysctls() {
	var kept []sysctlRecord
	var changes []sysctlChange
	if p.d.Sysctls == SysctlSet {
		for _, port := range p.ports {
			for _, want := range settings() {
				record, change := p.sysctl(port, want)
				if record != nil {
					kept = append(kept, *record)
				}
				if change {
					changes = append(changes, sysctlChange{*record, want})
				}
			}
		}
	}
	kept = append(kept, p.restoreSysctls(kept)...)
	if err := p.m.state.setSysctls(kept); err != nil {
		p.fail(fmt.Errorf("sysctls are left alone: %w", err))
		return
	}
	for _, c := range changes {
		p.changeSysctl(&c)
	}
}

type sysctlChange struct {
	sysctlRecord
	setting
}

// sysctl judges one setting: the record to keep for it, and whether it must be
// changed now.
func (p *pass) sysctl(port port, want setting) (record *sysctlRecord, change bool) {
	own, err := readSysctl(want.family, port.Name, want.key)
	if err != nil {
		return nil, false // no IPv6 on this host, or an older kernel
	}
	all, err := readSysctl(want.family, "all", want.key)
	if err != nil {
		all = "0"
	}
	r := sysctlRecord{
		Interface: port.Name, Index: port.index, Family: want.family, Key: want.key, Old: own, Ours: want.value,
	}
	known := slices.IndexFunc(p.m.state.Sysctls, func(o sysctlRecord) bool { return o.same(&r) })
	if known >= 0 {
		r.Old, record = p.m.state.Sysctls[known].Old, &r
	}
	allNow, _ := strconv.Atoi(all)
	ownNow, _ := strconv.Atoi(own)
	if !want.wrong(allNow, ownNow) {
		if record != nil {
			p.m.placed.sysctls[r.id()] = true
		}
		return record, false
	}
	return &r, true
}

func (r *sysctlRecord) id() string { return fmt.Sprintf("%d %s %s", r.Index, r.Family, r.Key) }

// changeSysctl sets what is in the state file by now.
func (p *pass) changeSysctl(c *sysctlChange) {
	if p.m.conn.allow(1) < 1 {
		p.fail(errStopped)
		return
	}
	if err := writeSysctl(c.Family, c.Interface, c.Key, c.value); err != nil {
		p.problem("net.%s.conf.%s.%s is %s, cannot be set to %s (%v): %s",
			c.Family, c.Interface, c.Key, c.Old, c.value, err, c.why)
		return
	}
	p.a.Writes++
	if id := c.id(); p.m.placed.sysctls[id] {
		p.repaired(objectSysctl)
	} else {
		p.m.placed.sysctls[id] = true
	}
}

// restoreSysctls gives back what is recorded and not kept, where the value is
// still ours. It returns what could not be given back.
func (p *pass) restoreSysctls(kept []sysctlRecord) (left []sysctlRecord) {
	for _, r := range p.m.state.Sysctls {
		if slices.ContainsFunc(kept, func(o sysctlRecord) bool { return o.same(&r) }) {
			continue
		}
		if err := p.restoreSysctl(&r); err != nil {
			p.fail(err)
			left = append(left, r)
		}
	}
	return left
}

func (p *pass) restoreSysctl(r *sysctlRecord) error {
	i := slices.IndexFunc(p.s.links, func(l link) bool { return l.index == r.Index })
	if i < 0 {
		return nil // went with its device
	}
	name := p.s.links[i].name
	now, err := readSysctl(r.Family, name, r.Key)
	if err != nil || now != r.Ours {
		return nil //nolint:nilerr // gone, or somebody else's by now
	}
	if p.m.conn.allow(1) < 1 {
		return errStopped
	}
	if err := writeSysctl(r.Family, name, r.Key, r.Old); err != nil {
		return fmt.Errorf("restore net.%s.conf.%s.%s to %s: %w", r.Family, name, r.Key, r.Old, err)
	}
	delete(p.m.placed.sysctls, r.id())
	p.a.Writes++
	return nil
}

func readSysctl(family, name, key string) (string, error) {
	return readFile(sysctlPath(family, name, key))
}

// readFile reads a short file of /proc with as few system calls as possible,
// because a dozen of them are read in each pass.
func readFile(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", path, err)
	}
	var b [64]byte
	n, err := unix.Read(fd, b[:])
	_ = unix.Close(fd)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return strings.TrimSpace(string(b[:n])), nil
}

func writeSysctl(family, name, key, value string) error {
	fd, err := unix.Open(sysctlPath(family, name, key), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte(value))
	return errors.Join(err, unix.Close(fd))
}
