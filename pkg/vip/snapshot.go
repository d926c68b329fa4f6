package vip

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// snapshot is what the kernel holds, read at the begin of a call.
type snapshot struct {
	links     []link
	addresses []address
	main      []route // main table, both families
	own       []route // protocol 68, any table, both families
	local     []route // local routes that bind whole prefixes, whoever made them
	rules     []rule  // all, both families, in their order
}

// families in the order in which they are treated.
func families() []uint8 { return []uint8{unix.AF_INET, unix.AF_INET6} }

// readHosts reads devices and addresses, and our own local routes.
func (c *conn) readHosts(ctx context.Context, s *snapshot) error {
	var err error
	if s.links, err = c.links(ctx); err != nil {
		return fmt.Errorf("read links: %w", err)
	}
	if s.addresses, err = c.addresses(ctx); err != nil {
		return fmt.Errorf("read addresses: %w", err)
	}
	s.own = nil
	for _, family := range families() {
		own, err := c.routes(ctx, family, unix.RT_TABLE_LOCAL, Protocol)
		if err != nil {
			return fmt.Errorf("read local routes: %w", err)
		}
		s.own = append(s.own, own...)
	}
	return nil
}

// readOwn reads our own routes of all tables, and the rules.
func (c *conn) readOwn(ctx context.Context, s *snapshot) error {
	s.own, s.rules = nil, nil
	for _, family := range families() {
		own, err := c.routes(ctx, family, 0, Protocol)
		if err != nil {
			return fmt.Errorf("read own routes: %w", err)
		}
		rules, err := c.rules(ctx, family)
		if err != nil {
			return fmt.Errorf("read rules: %w", err)
		}
		s.own, s.rules = append(s.own, own...), append(s.rules, rules...)
	}
	return nil
}

// readMain reads the main table.
func (c *conn) readMain(ctx context.Context, s *snapshot) error {
	s.main = nil
	for _, family := range families() {
		main, err := c.routes(ctx, family, unix.RT_TABLE_MAIN, 0)
		if err != nil {
			return fmt.Errorf("read main table: %w", err)
		}
		s.main = append(s.main, main...)
	}
	return nil
}

func (s *snapshot) link(name string) (link, bool) {
	i := slices.IndexFunc(s.links, func(l link) bool { return l.name == name })
	if i < 0 {
		return link{}, false
	}
	return s.links[i], true
}

// looksUp tells whether a rule of ours leads to the table.
func (s *snapshot) looksUp(family uint8, table uint32) bool {
	return slices.ContainsFunc(s.rules, func(r rule) bool {
		return r.proto == Protocol && r.family == family && r.table == table
	})
}

// readLocal finds the local routes of whole prefixes; those of others are
// looked for only where ours is missing, because the table is long.
func (c *conn) readLocal(ctx context.Context, s *snapshot, vips []netip.Prefix) error {
	s.local = nil
	for i := range s.own {
		if r := &s.own[i]; r.table == unix.RT_TABLE_LOCAL {
			s.local = append(s.local, *r)
		}
	}
	missing := slices.ContainsFunc(vips, func(v netip.Prefix) bool {
		return !v.IsSingleIP() && !slices.ContainsFunc(s.local, func(r route) bool { return r.dst == v.Masked() })
	})
	if !missing {
		return nil
	}
	for _, family := range families() {
		all, err := c.routes(ctx, family, unix.RT_TABLE_LOCAL, 0)
		if err != nil {
			return fmt.Errorf("read local table: %w", err)
		}
		s.local = append(s.local, all...)
	}
	return nil
}

func (s *snapshot) linkName(index int) string {
	for _, l := range s.links {
		if l.index == index {
			return l.name
		}
	}
	return fmt.Sprintf("device %d", index)
}

// isSource tells whether the kernel accepts the address as preferred source
// because of one of the bound VIPs.
func isSource(a netip.Addr, bound []netip.Prefix) bool {
	return a.IsValid() && slices.ContainsFunc(bound, func(p netip.Prefix) bool { return p.Contains(a) })
}
