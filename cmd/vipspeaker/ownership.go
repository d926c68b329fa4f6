package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"time"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/owner"
	"vipspeaker/pkg/speaker"
)

// ownership makes the keeper of the leases, if the configuration asks for one.
func (d *daemon) ownership(c *config.Ownership) error {
	if c == nil {
		return nil
	}
	host := c.Host
	if host == "" {
		var err error
		if host, err = os.Hostname(); err != nil {
			return fmt.Errorf("ownership.host is not given: %w", err)
		}
	}
	d.owners = owner.New(owner.Options{
		Log: d.log, Poke: d.signal.Poke, Host: host,
		Config: owner.Config{
			Endpoints: c.Etcd.Endpoints, Username: c.Etcd.Username, Password: string(c.Etcd.Password), TLS: c.Etcd.TLS,
			Prefix: c.Etcd.Prefix, Lease: c.Lease,
		},
	})
	return nil
}

// loopOwners is the keeper for the loop, nil for none.
func (d *daemon) loopOwners() speaker.Owners {
	if d.owners == nil {
		return nil
	}
	return d.owners
}

// sameOwnership refuses a reload that changes where the leases are: whoever gives
// one up and takes another must not announce in between.
func sameOwnership(a, b *config.Ownership) error {
	plain := func(o *config.Ownership) (c config.Ownership) {
		if o != nil {
			c = *o
			c.Etcd.TLS = nil // what is in its files is read at the start
		}
		return c
	}
	if (a == nil) != (b == nil) || !reflect.DeepEqual(plain(a), plain(b)) {
		return errors.New("ownership: a change of this section needs a restart of the daemon")
	}
	return nil
}

// move has a VIP handed over.
func (d *daemon) move(ctx context.Context, name, to string) error {
	s := d.store.Load()
	if s == nil {
		return errors.New("the daemon has just started: no pass has ended yet")
	}
	e, err := s.Explain(name, time.Now())
	if err != nil {
		return err
	}
	if d.owners == nil || e.VIP.Role == nil || !e.VIP.Role.Leased {
		return fmt.Errorf("%s has no owner to be moved: it needs exclusive: true, and the configuration ownership", e.VIP.Name)
	}
	return d.owners.Move(ctx, e.VIP.Prefix, to)
}
