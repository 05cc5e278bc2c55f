// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"chatrun.dev/operator/internal/streamer"
)

const (
	// streamAddress and localAddress are the defaults of --stream-bind-address.
	streamAddress = ":8090"
	localAddress  = "127.0.0.1:8090"
	// ticketSecret is the default of --stream-ticket-secret.
	ticketSecret = "chatrun-stream-tickets" //nolint:gosec // a name, not the key
)

// streamOptions are the flags of the stream endpoint.
type streamOptions struct {
	address           string
	local             bool
	certDir           string
	certFile, keyFile string
	origins           string
	maxReaders        int
	maxReadersPerRun  int
	logBytes          int
	logTotalBytes     int
	logGrace          time.Duration
	ticketSecret      string
	frontDoor         bool
	page              bool
}

const addressFlag = "stream-bind-address"

// bind declares the flags.
func (s *streamOptions) bind(fs *flag.FlagSet) {
	fs.StringVar(&s.address, addressFlag, streamAddress,
		"Address of the stream endpoint; 0 is off. It serves HTTPS and asks the API server who its readers are and what they may, unless --stream-local is given.")
	fs.BoolVar(&s.local, "stream-local", false,
		"Serve the stream endpoint over plain HTTP and ask nobody who they are: for your own machine, so on loopback only, by default on "+localAddress+".")
	fs.StringVar(&s.certDir, "stream-cert-dir", "",
		"Directory of the stream endpoint's certificate, tls.crt and tls.key, which are read again when they change. Without a certificate it makes one for itself.")
	fs.StringVar(&s.certFile, "stream-tls-cert-file", "", "The certificate alone, instead of --stream-cert-dir.")
	fs.StringVar(&s.keyFile, "stream-tls-key-file", "", "The key of --stream-tls-cert-file.")
	fs.StringVar(&s.origins, "stream-cors-allowed-origins", "",
		"Origins, such as https://app.example, separated by commas, whose pages may read streams in a browser; * for all. Empty: none but its own.")
	fs.IntVar(&s.maxReaders, "stream-max-readers", streamer.DefaultMaxReaders, "How many readers are served at one time; 0 is no bound.")
	fs.IntVar(&s.maxReadersPerRun, "stream-max-readers-per-run", streamer.DefaultMaxReadersPerRun, "The same for the readers of one run.")
	fs.IntVar(&s.logBytes, "stream-log-bytes", streamer.DefaultLogBytes, "How many bytes of events are kept of a run for readers that are behind or return.")
	fs.IntVar(&s.logTotalBytes, "stream-log-total-bytes", streamer.DefaultTotalBytes, "The same for all runs together.")
	fs.DurationVar(&s.logGrace, "stream-log-grace", streamer.DefaultGrace, "How long the events of a run are kept after its end. Later readers get its answer in one piece.")
	fs.StringVar(&s.ticketSecret, "stream-ticket-secret", ticketSecret,
		"[NAMESPACE/]NAME of the Secret with the key of tickets, which the manager makes when it needs it. Without a namespace: in the pod's own. Empty: no tickets.")
	fs.BoolVar(&s.frontDoor, "stream-front-door", false,
		"Serve the API server as an extension for the group stream.chatrun.dev, and take its word and client certificates for who somebody is.")
	fs.BoolVar(&s.page, "stream-page", true,
		"Serve a web page for people at /ui/ of the stream endpoint. It holds nothing, and reads with the token that its user pastes.")
}

// complete checks the flags. given says whether the address was given.
func (s *streamOptions) complete(given bool) error {
	if s.address == off {
		return nil
	}
	if s.local {
		if err := s.completeLocal(given); err != nil {
			return err
		}
	}
	switch {
	case s.certDir != "" && (s.certFile != "" || s.keyFile != ""):
		return errors.New("--stream-cert-dir and --stream-tls-cert-file exclude each other")
	case (s.certFile == "") != (s.keyFile == ""):
		return errors.New("--stream-tls-cert-file and --stream-tls-key-file need each other")
	case s.maxReaders < 0:
		return errors.New("--stream-max-readers must not be negative")
	case s.maxReadersPerRun < 0:
		return errors.New("--stream-max-readers-per-run must not be negative")
	case s.logBytes <= 0:
		return errors.New("--stream-log-bytes must be above 0")
	case s.logTotalBytes < s.logBytes:
		return errors.New("--stream-log-total-bytes must not be below --stream-log-bytes")
	case s.logGrace < 0:
		return errors.New("--stream-log-grace must not be negative")
	}
	if _, err := s.secret(""); err != nil {
		return fmt.Errorf("--stream-ticket-secret: %w", err)
	}
	for _, origin := range list(s.origins) {
		if err := checkOrigin(origin); err != nil {
			return fmt.Errorf("--stream-cors-allowed-origins: %w", err)
		}
	}
	return nil
}

// completeLocal sees to it that nobody but this machine reaches an endpoint
// that asks nobody.
func (s *streamOptions) completeLocal(given bool) error {
	if !given {
		s.address = localAddress
	}
	host, port, err := net.SplitHostPort(s.address)
	if err != nil {
		return fmt.Errorf("--%s: %w", addressFlag, err)
	}
	if !isLoopback(host) {
		return fmt.Errorf("--stream-local asks nobody who they are, so --%s must be on loopback, such as %s, and not %q", addressFlag, localAddress, s.address)
	}
	if _, err := netip.ParseAddr(host); err != nil {
		// What localhost means is not left to a name server.
		s.address = net.JoinHostPort("127.0.0.1", port)
	}
	switch {
	case s.frontDoor:
		return errors.New("--stream-local and --stream-front-door exclude each other: the API server speaks HTTPS")
	case s.certDir != "" || s.certFile != "" || s.keyFile != "":
		return errors.New("--stream-local is plain HTTP and takes no certificate")
	}
	return nil
}

// isLoopback reports whether a host is this machine and no other. Names are not
// looked up.
func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// checkOrigin takes what browsers send as an origin, exactly, or *.
func checkOrigin(origin string) error {
	if origin == "*" {
		return nil
	}
	u, err := url.Parse(origin)
	if err != nil || !slices.Contains([]string{"http", "https"}, u.Scheme) || u.Hostname() == "" ||
		strings.ContainsRune(u.Host, '*') || origin != strings.ToLower(u.Scheme+"://"+u.Host) {
		return fmt.Errorf("%q is not an origin such as https://app.example or http://localhost:3000", origin)
	}
	return nil
}

// certificate returns the files of the certificate, or none.
func (s *streamOptions) certificate() (cert, key string) {
	if s.certDir != "" {
		return filepath.Join(s.certDir, "tls.crt"), filepath.Join(s.certDir, "tls.key")
	}
	return s.certFile, s.keyFile
}

// secret names the Secret of the tickets' key. own is the pod's namespace.
func (s *streamOptions) secret(own string) (types.NamespacedName, error) {
	if s.ticketSecret == "" {
		return types.NamespacedName{}, nil
	}
	return secretName(s.ticketSecret, own)
}

// secretName reads [NAMESPACE/]NAME. own is the namespace if none is given.
func secretName(s, own string) (types.NamespacedName, error) {
	namespace, name, given := strings.Cut(s, "/")
	if !given {
		namespace, name = own, s
	}
	if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
		return types.NamespacedName{}, fmt.Errorf("%q: %s", name, problems[0])
	}
	if given {
		if problems := validation.IsDNS1123Label(namespace); len(problems) > 0 {
			return types.NamespacedName{}, fmt.Errorf("%q: %s", namespace, problems[0])
		}
	}
	return types.NamespacedName{Namespace: namespace, Name: name}, nil
}
