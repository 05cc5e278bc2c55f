// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
)

const (
	// ticketLifetime is how long a ticket serves for reconnecting: as long as a
	// token of a ServiceAccount that was not asked to last longer.
	ticketLifetime = time.Hour
	// maxTicket bounds a ticket, as it stands in a URL: servers and proxies take
	// request lines of 8 KiB and more, seldom of more than 16.
	maxTicket = 8 << 10
	// ticketVersion is a ticket's first byte.
	ticketVersion = 1
	// keyBytes is what AES-256 needs, keyIDBytes enough to tell keys apart.
	keyBytes, keyIDBytes = 32, 8
)

var (
	// errTicket and those around it are told to the caller.
	errTicket    = errors.New("the ticket is not valid")
	errOtherRun  = fmt.Errorf("%w for this run", errTicket)
	errExpired   = fmt.Errorf("%w any more: ask for another one", errTicket)
	errTooLarge  = errors.New("the user does not fit into a ticket")
	errNoTickets = errors.New("there are no tickets")
)

// pass is what a ticket holds: for which run, until when, and who the reader is.
type pass struct {
	Namespace string              `json:"ns"`
	Name      string              `json:"run"`
	Expires   int64               `json:"exp"` // in seconds
	User      string              `json:"user"`
	UID       string              `json:"uid,omitempty"`
	Groups    []string            `json:"groups,omitempty"`
	Extra     map[string][]string `json:"extra,omitempty"`
}

// tickets issues and opens tickets. A ticket says who was admitted when it was
// issued; what they may is asked anew each time.
type tickets struct{ keys *keys }

// newTickets returns nil if there is no Secret for their key.
func newTickets(client kubernetes.Interface, secret types.NamespacedName, log logr.Logger) *tickets {
	if secret.Name == "" {
		return nil
	}
	return &tickets{keys: &keys{client: client, secret: secret, owners: NewSelf(client).Owners, log: log}}
}

// issue makes a ticket for the caller.
func (t *tickets) issue(ctx context.Context, caller user.Info, namespace, name string) (string, time.Time, error) {
	if t == nil {
		return "", time.Time{}, errNoTickets
	}
	k, err := t.keys.current(ctx, true)
	if err != nil {
		return "", time.Time{}, err
	}
	expires := time.Now().Add(ticketLifetime).Truncate(time.Second)
	ticket, err := k.seal(pass{
		Namespace: namespace, Name: name, Expires: expires.Unix(),
		User: caller.GetName(), UID: caller.GetUID(), Groups: caller.GetGroups(), Extra: caller.GetExtra(),
	})
	return ticket, expires, err
}

// open returns whom a ticket was issued to, if it is for this run.
func (t *tickets) open(ctx context.Context, ticket, namespace, name string) (user.Info, error) {
	if t == nil {
		return nil, errTicket
	}
	raw, err := decode(ticket)
	if err != nil {
		return nil, err
	}
	k, err := t.keys.find(ctx, raw.keyID())
	if err != nil {
		return nil, err
	}
	p, err := k.open(raw)
	switch {
	case err != nil:
		return nil, err
	case time.Now().Unix() >= p.Expires:
		return nil, errExpired
	case p.Namespace != namespace || p.Name != name:
		return nil, errOtherRun
	}
	return &user.DefaultInfo{Name: p.User, UID: p.UID, Groups: p.Groups, Extra: p.Extra}, nil
}

// keyID tells keys apart. It says nothing about the key.
type keyID [keyIDBytes]byte

// key seals tickets by AES-256-GCM. Nonces are random: one key is good for some
// 2^32 tickets, which is a thousand a second for 49 days.
type key struct {
	id   keyID
	aead cipher.AEAD
}

// newKey derives a key and its id from the Secret's bytes.
func newKey(secret []byte) (*key, error) {
	derived, err := hkdf.Key(sha256.New, secret, nil, "chatrun.dev stream ticket", keyBytes+keyIDBytes)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(derived[:keyBytes])
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &key{id: keyID(derived[keyBytes:]), aead: aead}, nil
}

// A sealed ticket is the version, the key's id, the nonce, and what is sealed;
// the former two are authenticated with it.
type sealed []byte

const (
	ticketHeader = 1 + keyIDBytes
	nonceBytes   = 12
	tagBytes     = 16
)

func (s sealed) header() []byte { return s[:ticketHeader] }
func (s sealed) keyID() keyID   { return keyID(s[1:ticketHeader]) }
func (s sealed) nonce() []byte  { return s[ticketHeader : ticketHeader+nonceBytes] }
func (s sealed) text() []byte   { return s[ticketHeader+nonceBytes:] }

// encoding is the alphabet of URLs. Strict: each ticket has one spelling.
var encoding = base64.RawURLEncoding.Strict()

// decode checks the form of a ticket, and no more.
func decode(ticket string) (sealed, error) {
	if len(ticket) > maxTicket {
		return nil, errTicket
	}
	raw, err := encoding.DecodeString(ticket)
	if err != nil || len(raw) < ticketHeader+nonceBytes+tagBytes || raw[0] != ticketVersion {
		return nil, errTicket
	}
	return raw, nil
}

func (k *key) seal(p pass) (string, error) {
	text, err := json.Marshal(p)
	if err != nil {
		return "", err
	}
	if encoding.EncodedLen(ticketHeader+nonceBytes+len(text)+tagBytes) > maxTicket {
		return "", errTooLarge
	}
	raw := make(sealed, ticketHeader+nonceBytes, ticketHeader+nonceBytes+len(text)+tagBytes)
	raw[0] = ticketVersion
	copy(raw[1:], k.id[:])
	_, _ = rand.Read(raw.nonce()) // it never fails
	return encoding.EncodeToString(k.aead.Seal(raw, raw.nonce(), text, raw.header())), nil
}

func (k *key) open(raw sealed) (pass, error) {
	text, err := k.aead.Open(nil, raw.nonce(), raw.text(), raw.header())
	if err != nil {
		return pass{}, errTicket
	}
	var p pass
	if err := json.Unmarshal(text, &p); err != nil {
		return pass{}, errTicket
	}
	return p, nil
}
