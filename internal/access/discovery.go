// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package access

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"mime"
	"net/http"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"chatrun.dev/operator/api/v1alpha1"
)

// groupsPath is where all groups of an API server are.
const groupsPath = "/apis"

// Discovery serves the documents by which the API server finds out that the
// group is there, and clients what is in it; all else is left to next. They are
// for whoever is known, without a review: they say nothing that this file does
// not, and the API server checks by them whether we are up.
//
// Without a front door there is nothing below /apis.
func (g *Gate) Discovery(next http.Handler) http.Handler {
	if g.front == nil {
		return NoDiscovery(next)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served, ok := documents[strings.TrimSuffix(r.URL.Path, "/")]
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			refuse(w, methodNotAllowed("this path allows GET, HEAD"))
			return
		}
		caller, err := g.caller(r)
		if !g.known(w, caller, err) {
			return
		}
		note(r.Context(), caller.GetName())
		served.pick(r.Header.Get("Accept")).serve(w, r)
	})
}

// NoDiscovery hides what is below /apis from those who come without an API
// server before them.
func NoDiscovery(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == groupsPath || strings.HasPrefix(r.URL.Path, groupsPath+"/") {
			refuse(w, notFound("no such path: the API server is not the front door of this manager"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// aggregatedType is the type of the document that holds all groups with all
// that is in them.
const aggregatedType = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

// documents are what is served by its path.
var documents = map[string]variants{
	groupsPath: {
		plain: encode("application/json", &metav1.APIGroupList{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "APIGroupList"},
			Groups:   []metav1.APIGroup{plainGroup()},
		}),
		aggregated: encode(aggregatedType, &apidiscoveryv2.APIGroupDiscoveryList{
			TypeMeta: metav1.TypeMeta{APIVersion: apidiscoveryv2.SchemeGroupVersion.String(), Kind: "APIGroupDiscoveryList"},
			Items:    []apidiscoveryv2.APIGroupDiscovery{aggregatedGroup()},
		}),
	},
	groupsPath + "/" + streamGroup: {plain: func() *document {
		g := plainGroup()
		g.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "APIGroup"}
		return encode("application/json", &g)
	}()},
	groupsPath + "/" + streamGroup + "/" + streamVersion: {plain: encode("application/json", &metav1.APIResourceList{
		TypeMeta:     metav1.TypeMeta{APIVersion: "v1", Kind: "APIResourceList"},
		GroupVersion: streamGroup + "/" + streamVersion,
		// As pods/log is listed with the kind Pod. It is of another group, which
		// holds for subresources such as scale, too.
		APIResources: []metav1.APIResource{{
			Name: streamResource + "/" + streamLog, Namespaced: true, Verbs: metav1.Verbs{streamVerb},
			Group: v1alpha1.GroupVersion.Group, Version: v1alpha1.GroupVersion.Version, Kind: "ChatRun",
		}},
	})},
	// A stream has no schema. But the API server asks for ours, again and again,
	// and complains in its log if it is told that there is none.
	"/openapi/v2": {plain: encode("application/json", map[string]any{
		"swagger": "2.0", "info": map[string]string{"title": streamGroup, "version": streamVersion}, "paths": struct{}{},
	})},
	"/openapi/v3": {plain: encode("application/json", map[string]any{"paths": struct{}{}})},
}

func plainGroup() metav1.APIGroup {
	version := metav1.GroupVersionForDiscovery{GroupVersion: streamGroup + "/" + streamVersion, Version: streamVersion}
	return metav1.APIGroup{Name: streamGroup, Versions: []metav1.GroupVersionForDiscovery{version}, PreferredVersion: version}
}

func aggregatedGroup() apidiscoveryv2.APIGroupDiscovery {
	kind := metav1.GroupVersionKind{Group: v1alpha1.GroupVersion.Group, Version: v1alpha1.GroupVersion.Version, Kind: "ChatRun"}
	return apidiscoveryv2.APIGroupDiscovery{
		ObjectMeta: metav1.ObjectMeta{Name: streamGroup},
		Versions: []apidiscoveryv2.APIVersionDiscovery{{
			Version: streamVersion, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent,
			Resources: []apidiscoveryv2.APIResourceDiscovery{{
				// It has no verbs and no kind: runs themselves are in another group.
				Resource: streamResource, Scope: apidiscoveryv2.ScopeNamespace, ResponseKind: &metav1.GroupVersionKind{}, Verbs: []string{},
				Subresources: []apidiscoveryv2.APISubresourceDiscovery{{
					Subresource: streamLog, Verbs: []string{streamVerb}, ResponseKind: &kind,
				}},
			}},
		}},
	}
}

// variants are the forms of a document. Only that of all groups has two.
type variants struct{ plain, aggregated *document }

// pick goes by the Accept header: the aggregated form must be asked for, and
// whoever asks for a form that there is not gets the plain one.
func (v variants) pick(accept string) *document {
	if v.aggregated == nil {
		return v.plain
	}
	for item := range strings.SplitSeq(accept, ",") {
		kind, params, err := mime.ParseMediaType(item)
		switch {
		case err != nil || kind != "application/json":
		case params["g"] == "apidiscovery.k8s.io" && params["v"] == "v2" && params["as"] == "APIGroupDiscoveryList":
			return v.aggregated
		case params["as"] == "":
			return v.plain
		}
	}
	return v.plain
}

// document is one that never changes.
type document struct {
	contentType, etag string
	body              []byte
}

func encode(contentType string, object any) *document {
	body, err := json.Marshal(object)
	if err != nil {
		panic(err) // none of them holds anything that JSON cannot
	}
	sum := sha256.Sum256(body)
	return &document{contentType: contentType, etag: `"` + hex.EncodeToString(sum[:]) + `"`, body: body}
}

func (d *document) serve(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Type", d.contentType)
	header.Set("ETag", d.etag)
	header.Set("Vary", "Accept")
	header.Set("Cache-Control", "no-cache, private")
	header.Set("X-Content-Type-Options", "nosniff")
	if r.Header.Get("If-None-Match") == d.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	// A caller that is gone already needs no answer.
	_, _ = w.Write(d.body)
}
