// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package golden

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/provider"
)

// short is a time-out that a case waits for.
const short = 50 * time.Millisecond

// streamHead begins a stream by hand, up to its first chunk.
const streamHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

func chunk(text string) string {
	return strconv.FormatInt(int64(len(text)), 16) + "\r\n" + text + "\r\n"
}

// These stand in many messages.
const (
	vendor    = `provider "vendor"`
	again     = ": another attempt may succeed"
	untrusted = "the certificate of " + vendor + " is not trusted: check baseURL, or set caBundle"
	brokeOff  = vendor + " broke off before it answered: another attempt may succeed; if it persists, check baseURL"
	broke     = "the connection to " + vendor + " broke during the answer" + again
)

// faults are cases in which no HTTP answer comes that could be written down.
type faults []Case

func (f *faults) add(from, name, message string, class chatretry.Class, status int, play func(*stage) reach) {
	*f = append(*f, Case{Type: provider.OpenAI, From: from, Name: name, fault: play, Want: is(class, "").says(message).at(status)})
}

// dials plays a case by an address alone.
func dials(base string) func(*stage) reach { return func(*stage) reach { return reach{base: base} } }

// bytes plays a case by a server that speaks in bytes.
func bytes(handle func(*stage, net.Conn)) func(*stage) reach {
	return func(s *stage) reach {
		return reach{base: "http://" + s.listen(func(c net.Conn) { handle(s, c) })}
	}
}

// connectionCases are calls that reach nobody.
func connectionCases() []Case {
	var cases faults
	cases.add("the network", "a refused connection", vendor+" refuses connections: check baseURL, and that the server runs", chatretry.ConnectionError, 0,
		func(s *stage) reach { return reach{base: "http://" + s.closed()} })
	cases.add("DNS", "a host name that does not exist", "the host name of "+vendor+" does not exist: check baseURL", chatretry.ConnectionError, 0, dials("https://no-such-host.example"))
	cases.add("DNS", "a failing name server", "the host name of "+vendor+" cannot be resolved just now: check the cluster's DNS", chatretry.ConnectionError, 0, dials("https://dns-is-down.example"))
	cases.add("the operator", "an address that it never calls", "the operator never calls the address of "+vendor+": it is link-local, a metadata service, or denied by a flag; change baseURL",
		chatretry.InvalidRequest, 0, dials("http://169.254.169.254"))
	cases.add("the egress proxy", "a refused tunnel", "the egress proxy does not let through to "+vendor+": check --egress-proxy and --no-proxy, and what the proxy allows", chatretry.ConnectionError, 0,
		func(s *stage) reach {
			proxy := s.serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
			return reach{base: "https://example.com", options: provider.Options{EgressProxy: proxy}}
		})
	return cases
}

// tlsCases are handshakes that fail.
func tlsCases() []Case {
	var cases faults
	cases.add("TLS", "an authority that is not known", untrusted, chatretry.ConnectionError, 0, func(s *stage) reach {
		_, port, _ := s.secure(http.NotFound)
		return reach{base: "https://example.com:" + port}
	})
	cases.add("TLS", "a certificate for another name", untrusted, chatretry.ConnectionError, 0, func(s *stage) reach {
		_, port, bundle := s.secure(http.NotFound)
		return reach{base: "https://other.example:" + port, bundle: bundle}
	})
	cases.add("TLS", "a handshake that takes too long", "connecting to "+vendor+" took too long: check baseURL, the network and its policies", chatretry.ConnectionError, 0, func(s *stage) reach {
		address := s.listen(func(net.Conn) { <-s.over })
		return reach{base: "https://" + address, options: provider.Options{ConnectTimeout: short}}
	})
	cases.add("TLS", "a server that speaks plain HTTP", vendor+" does not speak TLS: check the scheme of baseURL", chatretry.ConnectionError, 0, func(s *stage) reach {
		return reach{base: strings.Replace(s.serve(http.NotFound), "http", "https", 1)}
	})
	return cases
}

// brokenCases are connections that end before the answer does.
func brokenCases() []Case {
	var cases faults
	cases.add("the network", "a reset before the header", vendor+" closed the connection before it answered"+again, chatretry.ConnectionError, 0,
		bytes(func(_ *stage, c net.Conn) { swallow(c); reset(c) }))
	cases.add("the network", "an end before the header", brokeOff, chatretry.ConnectionError, 0, bytes(func(_ *stage, c net.Conn) { swallow(c) }))
	cases.add("a server", "something that is not HTTP", brokeOff, chatretry.ConnectionError, 0,
		bytes(func(_ *stage, c net.Conn) { swallow(c); _, _ = io.WriteString(c, "SSH-2.0-OpenSSH\r\n") }))
	for _, code := range []struct {
		name  string
		value uint32
	}{{"REFUSED_STREAM", 7}, {"INTERNAL_ERROR", 2}, {"ENHANCE_YOUR_CALM", 11}, {"CANCEL", 8}} {
		cases.add("HTTP/2", "RST_STREAM, "+code.name, brokeOff, chatretry.ConnectionError, 0, func(s *stage) reach {
			return s.http2(func(stream uint32) []byte { return frame(3, stream, binary.BigEndian.AppendUint32(nil, code.value)) })
		})
	}
	cases.add("HTTP/2", "GOAWAY", brokeOff, chatretry.ConnectionError, 0, func(s *stage) reach {
		return s.http2(func(uint32) []byte { return frame(7, 0, make([]byte, 8)) }) // last stream 0, no error
	})
	cases.add("a server", "no header in the time allowed", vendor+" sent no answer in the time allowed"+again, chatretry.Timeout, 0, func(s *stage) reach {
		base := s.serve(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		return reach{base: base, options: provider.Options{HeaderTimeout: short}}
	})

	cases.add("the network", "a reset within the answer", broke, chatretry.ConnectionError, 200, bytes(func(s *stage, c net.Conn) {
		swallow(c)
		_, _ = io.WriteString(c, streamHead+chunk(openAIPart))
		<-s.heard
		reset(c)
	}))
	cases.add("HTTP/2", "a reset within the answer", broke, chatretry.ConnectionError, 200, func(s *stage) reach {
		_, port, bundle := s.secure(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, openAIPart)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		return reach{base: "https://example.com:" + port, bundle: bundle}
	})
	cases.add("the network", "an end within the answer", interrupted, chatretry.StreamInterrupted, 200,
		bytes(func(_ *stage, c net.Conn) { swallow(c); _, _ = io.WriteString(c, streamHead+chunk(openAIPart)) }))
	cases.add("a server", "a body that is not HTTP", broke, chatretry.ConnectionError, 200,
		bytes(func(_ *stage, c net.Conn) { swallow(c); _, _ = io.WriteString(c, streamHead+"zz\r\n") }))
	return cases
}

// silenceCases are ended by the guard of streamIdleTimeoutSeconds.
func silenceCases() []Case {
	stall := func(kind provider.Type, name, text, more string) Case {
		return Case{Type: kind, From: "a server", Name: name, fault: func(s *stage) reach {
			return reach{idle: short, base: s.serve(func(w http.ResponseWriter, r *http.Request) {
				if text == "" {
					<-r.Context().Done()
					return
				}
				w.Header().Set("Content-Type", "text/event-stream")
				_, _ = io.WriteString(w, text)
				for r.Context().Err() == nil {
					_, _ = io.WriteString(w, more)
					_ = http.NewResponseController(w).Flush()
					select {
					case <-r.Context().Done():
					case <-time.After(short / 10):
					}
				}
			})}
		}, Want: is(chatretry.Timeout, "").says(fmt.Sprintf("no part of the answer came from provider %q for %s: raise the run's streamIdleTimeoutSeconds if the model needs longer", Name, short))}
	}
	return []Case{
		stall(provider.OpenAI, "silence before the header", "", ""),
		stall(provider.OpenAI, "silence between parts", openAIPart, ""),
		stall(provider.OpenAI, "keep-alives alone", ": hello\n\n", ": keep-alive\n\n"),
		stall(provider.Anthropic, "pings alone", anthropicStart, "event: ping\ndata: {\"type\": \"ping\"}\n\n"),
	}
}
