package netmon

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// dump reads one kind once. apply takes over what was read; it may be called if
// err is nil or errInterrupted.
func (m *Monitor) dump(k kind) (apply func(), err error) {
	switch k {
	case links:
		return m.dumpLinks()
	case addresses:
		return m.dumpAddresses()
	case neighbours:
		return m.dumpNeighbours()
	case rules:
		return m.dumpRules()
	default:
		return m.dumpRoutes()
	}
}

// ask sends a question on the socket of the kind. A long answer is paused for
// more urgent kinds.
func (m *Monitor) ask(k kind, typ, flags uint16, body []byte, fn func(body []byte)) error {
	if m.sockets[k] == nil {
		s, err := openRequest()
		if err != nil {
			return err
		}
		m.sockets[k] = s
	}
	var pause func()
	if k > links {
		pause = func() { m.turn(k) }
	}
	err := m.sockets[k].do(typ, flags, body, fn, pause)
	if err != nil && !errors.Is(err, errInterrupted) {
		// What is left of the answer would be in the way of the next one.
		err = errors.Join(err, m.sockets[k].close())
		m.sockets[k] = nil
	}
	return err
}

// askFamilies dumps IPv4 and IPv6. size is that of the request's header, whose
// first byte is the family, as is that of each answer.
func (m *Monitor) askFamilies(k kind, typ uint16, size int, fn func(body []byte)) error {
	interrupted := error(nil)
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		err := m.askFamily(family, k, typ, size, fn)
		if errors.Is(err, errInterrupted) {
			interrupted = err
		} else if err != nil {
			return fmt.Errorf("dump %s of family %d: %w", k, family, err)
		}
	}
	return interrupted
}

// askFamily dumps one family. A kernel without IPv6 (ipv6.disable=1) refuses some
// questions about it, which means that there is nothing, and answers others with
// all families.
func (m *Monitor) askFamily(family uint8, k kind, typ uint16, size int, fn func(body []byte)) error {
	body := make([]byte, size)
	body[0] = family
	err := m.ask(k, typ, unix.NLM_F_DUMP, body, func(b []byte) {
		if len(b) > 0 && b[0] == family {
			fn(b)
		}
	})
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// linkRequest is a question about the link of the index, or all if it is 0.
func linkRequest(index int) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index)) //nolint:gosec // an index
	return attribute(b, unix.IFLA_EXT_MASK, binary.NativeEndian.AppendUint32(nil, rtextFilterSkipStats))
}

func (m *Monitor) dumpLinks() (func(), error) {
	var fresh []Link
	err := m.ask(links, unix.RTM_GETLINK, unix.NLM_F_DUMP, linkRequest(0), func(b []byte) {
		if l, ok := decodeLink(b); ok {
			fresh = append(fresh, l)
		}
	})
	slices.SortFunc(fresh, func(a, b Link) int { return a.Index - b.Index })
	return func() {
		broken := m.broken
		m.broken = map[int]bool{}
		m.setLinks(fresh, broken)
	}, err
}

// askLink reads the one link, which makes the kernel look at its carrier now.
func (m *Monitor) askLink(index int) (Link, error) {
	var l Link
	found := false
	err := m.ask(links, unix.RTM_GETLINK, 0, linkRequest(index), func(b []byte) {
		l, found = decodeLink(b)
	})
	if err == nil && !found {
		err = fmt.Errorf("no answer about link %d", index)
	}
	return l, err
}

func (m *Monitor) dumpAddresses() (func(), error) {
	fresh := map[int][]Address{}
	err := m.askFamilies(addresses, unix.RTM_GETADDR, unix.SizeofIfAddrmsg, func(b []byte) {
		if index, a, ok := decodeAddress(b); ok {
			fresh[index] = append(fresh[index], a)
		}
	})
	return func() {
		changed := !maps.EqualFunc(fresh, m.addresses, slices.Equal[[]Address])
		m.addresses = fresh
		m.publish(addresses, changed, changed)
	}, err
}

func (m *Monitor) dumpNeighbours() (func(), error) {
	var fresh []Neighbour
	interrupted := error(nil)
	for _, index := range slices.Sorted(maps.Keys(m.watched)) {
		// The kernel sends the entries of the one device only.
		value := binary.NativeEndian.AppendUint32(nil, uint32(index)) //nolint:gosec // an index
		body := attribute(make([]byte, unix.SizeofNdMsg), unix.NDA_IFINDEX, value)
		err := m.ask(neighbours, unix.RTM_GETNEIGH, unix.NLM_F_DUMP, body, func(b []byte) {
			if n, ok := decodeNeighbour(b); ok && n.LinkIndex == index {
				fresh = append(fresh, n)
			}
		})
		if errors.Is(err, errInterrupted) {
			interrupted = err
		} else if err != nil {
			return nil, fmt.Errorf("dump neighbours of link %d: %w", index, err)
		}
	}
	// The kernel's order is that of a hash.
	slices.SortFunc(fresh, func(a, b Neighbour) int {
		if a.LinkIndex != b.LinkIndex {
			return a.LinkIndex - b.LinkIndex
		}
		return a.Address.Compare(b.Address)
	})
	return func() {
		changed := !slices.Equal(fresh, m.neighbours)
		poke := !slices.EqualFunc(fresh, m.neighbours, func(a, b Neighbour) bool {
			return a.LinkIndex == b.LinkIndex && a.Address == b.Address && a.resolved() == b.resolved()
		})
		m.neighbours = fresh
		m.publish(neighbours, changed, poke)
	}, interrupted
}

func (m *Monitor) dumpRules() (func(), error) {
	var fresh []Rule
	err := m.askFamilies(rules, unix.RTM_GETRULE, unix.SizeofRtMsg, func(b []byte) {
		if r, ok := decodeRule(b); ok {
			fresh = append(fresh, r)
		}
	})
	return func() {
		changed := !slices.Equal(fresh, m.rules)
		poke := foreign(m.rules, fresh, Rule.same, Rule.own, Rule.same)
		m.rules = fresh
		m.publish(rules, changed, poke)
	}, err
}

func (m *Monitor) dumpRoutes() (func(), error) {
	var decoder routeDecoder
	fresh := make([]Route, 0, len(m.routes)+16)
	err := m.askFamilies(routes, unix.RTM_GETROUTE, unix.SizeofRtMsg, func(b []byte) {
		if r, ok := decoder.decode(b); ok {
			fresh = append(fresh, r)
		}
	})
	return func() {
		changed := !slices.EqualFunc(fresh, m.routes, Route.same)
		poke := changed && foreign(m.routes, fresh, Route.same, Route.own, Route.alters)
		m.routes = fresh
		m.publish(routes, changed, poke)
	}, err
}
