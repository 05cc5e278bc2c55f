// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
)

// metadataAddresses are the metadata services of clouds that are no link-local
// addresses: they hand out the node's own credentials.
var metadataAddresses = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"),   // AWS, IPv6
	netip.MustParseAddr("fd20:ce::254"),    // Google, IPv6
	netip.MustParseAddr("168.63.129.16"),   // Azure's wire server
	netip.MustParseAddr("100.100.100.200"), // Alibaba
}

// nat64 holds IPv4 addresses in the last four bytes of IPv6 ones.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// guard says which addresses are never called. A provider's address is chosen
// by whoever may create ChatProviders.
type guard struct{ deny []netip.Prefix }

func newGuard(cidrs []string) (guard, error) {
	var g guard
	for _, cidr := range cidrs {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(cidr))
		if err != nil {
			return guard{}, fmt.Errorf("reading a denied CIDR: %w", err)
		}
		g.deny = append(g.deny, prefix.Masked())
	}
	return g, nil
}

// control refuses a connection right before it is made, when the name is
// resolved, so that no second look-up can tell another address.
func (g guard) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	target, err := netip.ParseAddrPort(address)
	if err != nil || g.refuses(target.Addr()) {
		return ErrTargetRefused
	}
	return nil
}

func (g guard) refuses(address netip.Addr) bool {
	address = address.Unmap().WithZone("")
	if nat64.Contains(address) {
		raw := address.As16()
		address = netip.AddrFrom4([4]byte(raw[12:]))
	}
	if address.IsLinkLocalUnicast() || address.IsMulticast() || address.IsUnspecified() {
		return true
	}
	return slices.Contains(metadataAddresses, address) ||
		slices.ContainsFunc(g.deny, func(p netip.Prefix) bool { return p.Contains(address) })
}

// refusesName reports whether a host that a proxy will resolve is a literal
// address that is refused. Numbers in forms that only some resolvers know
// (0xA9FEA9FE, 2852039166, 0251.0376…) are refused as well: they have no use
// but to slip through.
func (g guard) refusesName(host string) bool {
	if address, err := netip.ParseAddr(host); err == nil {
		return g.refuses(address)
	}
	host = strings.TrimSuffix(host, ".")
	last := strings.ToLower(host[strings.LastIndexByte(host, '.')+1:])
	return strings.HasPrefix(last, "0x") || last != "" && strings.Trim(last, "0123456789") == ""
}

// clusterSuffixes are domains that no public host has.
var clusterSuffixes = []string{".svc", ".local", ".localhost", ".internal", ".home.arpa", ".lan"}

// inCluster reports whether a host is one of a cluster or a private network,
// by its name alone. HTTP/2 would pin all streams to one pod behind a Service.
func inCluster(host string) bool {
	if address, err := netip.ParseAddr(host); err == nil {
		address = address.Unmap()
		return address.IsPrivate() || address.IsLoopback() || address.IsLinkLocalUnicast() || carrierGrade.Contains(address)
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if !strings.Contains(host, ".") || strings.Contains(host, ".svc.") {
		return true
	}
	for _, suffix := range clusterSuffixes {
		if strings.HasSuffix(host, suffix) {
			return true
		}
	}
	return false
}

// carrierGrade is shared address space, which some clusters give to pods.
var carrierGrade = netip.MustParsePrefix("100.64.0.0/10")

// noProxy lists what is reached directly.
type noProxy struct {
	all      bool
	prefixes []netip.Prefix
	hosts    []noProxyHost
}

// noProxyHost is a host, a domain with all that is under it, or an address.
type noProxyHost struct {
	name string
	port string // empty: every port
	// under: only what is under the domain, not the domain itself.
	under bool
}

// newNoProxy reads the usual form of the list: hosts and domains, each with
// all that is under it; .domain for only what is under it; addresses, each of
// them with or without a port; CIDRs; and * for everything.
func newNoProxy(list string) (noProxy, error) {
	var n noProxy
	for entry := range strings.SplitSeq(list, ",") {
		entry = strings.ToLower(strings.TrimSpace(entry))
		switch {
		case entry == "":
		case entry == "*":
			n.all = true
		case strings.Contains(entry, "/"):
			prefix, err := netip.ParsePrefix(entry)
			if err != nil {
				return noProxy{}, fmt.Errorf("reading the no-proxy list: %w", err)
			}
			n.prefixes = append(n.prefixes, prefix.Masked())
		default:
			n.hosts = append(n.hosts, newNoProxyHost(entry))
		}
	}
	return n, nil
}

func newNoProxyHost(entry string) noProxyHost {
	var h noProxyHost
	if name, port, err := net.SplitHostPort(entry); err == nil {
		entry, h.port = name, port
	}
	entry = strings.Trim(entry, "[]")
	entry = strings.TrimPrefix(entry, "*") // *.domain is .domain
	h.name, h.under = strings.CutPrefix(entry, ".")
	return h
}

// covers reports whether a URL is reached directly.
func (n noProxy) covers(target *url.URL) bool {
	host := strings.ToLower(strings.TrimSuffix(target.Hostname(), "."))
	port := target.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[target.Scheme]
	}
	if address, err := netip.ParseAddr(host); err == nil {
		for _, prefix := range n.prefixes {
			if prefix.Contains(address.Unmap()) {
				return true
			}
		}
	}
	for _, h := range n.hosts {
		if h.port != "" && h.port != port {
			continue
		}
		if host == h.name && !h.under || strings.HasSuffix(host, "."+h.name) {
			return true
		}
	}
	return n.all
}

// Server returns the host that is asked, with its port if the base URL names one;
// empty if there is none.
func (e Endpoint) Server() string {
	base := e.BaseURL
	if base == "" {
		switch e.Type {
		case OpenAI:
			base = openAI.defaultBase
		case Anthropic:
			base = anthropic.defaultBase
		}
	}
	u, err := url.Parse(base)
	if err != nil {
		return ""
	}
	return u.Host
}
