// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"reflect"
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// findings are what breaks, each with where.
type findings []string

func (f *findings) add(at, format string, args ...any) {
	*f = append(*f, at+": "+fmt.Sprintf(format, args...))
}

// compare returns what of a CRD breaks those who used the one before.
func compare(before, after *apiextensionsv1.CustomResourceDefinition) []string {
	var f findings
	at := before.Name
	b, a := before.Spec, after.Spec
	if b.Group != a.Group || b.Scope != a.Scope || b.Names.Kind != a.Names.Kind || b.Names.Plural != a.Names.Plural || b.Names.ListKind != a.Names.ListKind {
		f.add(at, "its group, scope or names changed")
	}
	for kind, names := range map[string][2][]string{"short name": {b.Names.ShortNames, a.Names.ShortNames}, "category": {b.Names.Categories, a.Names.Categories}} {
		for _, name := range names[0] {
			if !slices.Contains(names[1], name) {
				f.add(at, "the %s %q is gone", kind, name)
			}
		}
	}
	for _, v := range b.Versions {
		i := slices.IndexFunc(a.Versions, func(n apiextensionsv1.CustomResourceDefinitionVersion) bool { return n.Name == v.Name })
		if i < 0 {
			f.add(at, "version %s is gone", v.Name)
			continue
		}
		compareVersion(&f, at+" "+v.Name, &v, &a.Versions[i])
	}
	slices.Sort(f)
	return f
}

// compareVersion looks at one version.
func compareVersion(f *findings, at string, before, after *apiextensionsv1.CustomResourceDefinitionVersion) {
	if before.Served && !after.Served {
		f.add(at, "it is not served any more")
	}
	if before.Storage && !after.Storage {
		f.add(at, "objects are not stored as it any more: those that are need a migration first")
	}
	for _, field := range before.SelectableFields {
		if !slices.Contains(after.SelectableFields, field) {
			f.add(at, "%s can no longer be selected by", field.JSONPath)
		}
	}
	b, a := before.Subresources, after.Subresources
	if b != nil && (a == nil || b.Status != nil && a.Status == nil || b.Scale != nil && !reflect.DeepEqual(b.Scale, a.Scale)) {
		f.add(at, "a subresource is gone, or another one")
	}
	if before.Schema == nil || after.Schema == nil {
		f.add(at, "it has no schema")
		return
	}
	compareSchema(f, at, before.Schema.OpenAPIV3Schema, after.Schema.OpenAPIV3Schema)
}

// compareSchema looks at a part of the schema and all that is under it.
func compareSchema(f *findings, at string, before, after *apiextensionsv1.JSONSchemaProps) {
	if before.Type != after.Type || before.Format != after.Format {
		f.add(at, "it was %s %s and is %s %s", before.Type, before.Format, after.Type, after.Format)
	}
	if before.Nullable && !after.Nullable {
		f.add(at, "null is refused")
	}
	if before.Default != nil && (after.Default == nil || string(before.Default.Raw) != string(after.Default.Raw)) {
		f.add(at, "its default was %s, and is another one or none", before.Default.Raw)
	}
	compareBounds(f, at, before, after)
	compareRules(f, at, before, after)
	for name, b := range before.Properties {
		a, there := after.Properties[name]
		if !there {
			f.add(at+"."+name, "the field is gone")
			continue
		}
		compareSchema(f, at+"."+name, &b, &a)
	}
	for _, name := range after.Required {
		if !slices.Contains(before.Required, name) && after.Properties[name].Default == nil {
			f.add(at+"."+name, "it is required, and has no default")
		}
	}
	compareUnder(f, at, before, after)
	compareRest(f, at, before, after)
}

// compareUnder looks at what lists and maps hold.
func compareUnder(f *findings, at string, before, after *apiextensionsv1.JSONSchemaProps) {
	switch {
	case before.Items == nil && after.Items == nil:
	case before.Items == nil || after.Items == nil || before.Items.Schema == nil || after.Items.Schema == nil:
		f.add(at, "its items are described in another way")
	default:
		compareSchema(f, at+"[]", before.Items.Schema, after.Items.Schema)
	}
	switch b, a := before.AdditionalProperties, after.AdditionalProperties; {
	case b == nil && a == nil:
	case b == nil || a == nil || b.Schema == nil || a.Schema == nil:
		f.add(at, "its values are described in another way")
	default:
		compareSchema(f, at+"{}", b.Schema, a.Schema)
	}
}

// compareBounds looks at whether something that was in bounds is not.
func compareBounds(f *findings, at string, before, after *apiextensionsv1.JSONSchemaProps) {
	upper(f, at, "maximum", before.Maximum, after.Maximum)
	upper(f, at, "maxLength", before.MaxLength, after.MaxLength)
	upper(f, at, "maxItems", before.MaxItems, after.MaxItems)
	upper(f, at, "maxProperties", before.MaxProperties, after.MaxProperties)
	lower(f, at, "minimum", before.Minimum, after.Minimum)
	lower(f, at, "minLength", before.MinLength, after.MinLength)
	lower(f, at, "minItems", before.MinItems, after.MinItems)
	lower(f, at, "minProperties", before.MinProperties, after.MinProperties)
	if !before.ExclusiveMaximum && after.ExclusiveMaximum || !before.ExclusiveMinimum && after.ExclusiveMinimum {
		f.add(at, "a bound is excluded itself")
	}
	if after.MultipleOf != nil && !reflect.DeepEqual(before.MultipleOf, after.MultipleOf) {
		f.add(at, "it has to be a multiple of %v", *after.MultipleOf)
	}
	if after.Pattern != "" && before.Pattern != after.Pattern {
		f.add(at, "another pattern, %s", after.Pattern)
	}
	if len(before.Enum) == 0 && len(after.Enum) > 0 {
		f.add(at, "only some values are allowed")
	}
	for _, value := range before.Enum {
		same := func(v apiextensionsv1.JSON) bool { return string(v.Raw) == string(value.Raw) }
		if len(after.Enum) > 0 && !slices.ContainsFunc(after.Enum, same) {
			f.add(at, "the value %s is gone", value.Raw)
		}
	}
}

func upper[T int64 | float64](f *findings, at, bound string, before, after *T) {
	if after != nil && (before == nil || *after < *before) {
		f.add(at, "%s is narrower, %v", bound, *after)
	}
}

func lower[T int64 | float64](f *findings, at, bound string, before, after *T) {
	if after != nil && (before == nil || *after > *before) && !(before == nil && *after <= 0) {
		f.add(at, "%s is narrower, %v", bound, *after)
	}
}

// compareRules looks at whether a rule came that may refuse what was allowed. What a
// rule says to people is free.
func compareRules(f *findings, at string, before, after *apiextensionsv1.JSONSchemaProps) {
	known := map[string]bool{}
	for _, r := range before.XValidations {
		known[r.Rule] = true
	}
	for _, r := range after.XValidations {
		if !known[r.Rule] {
			f.add(at, "a new rule, %s", r.Rule)
		}
	}
}

// compareRest looks at what nobody above has looked at, and takes any difference for a
// break: how lists merge, what is kept of unknown fields, and what is yet to be
// invented.
func compareRest(f *findings, at string, before, after *apiextensionsv1.JSONSchemaProps) {
	if !reflect.DeepEqual(rest(before), rest(after)) {
		f.add(at, "it merges, keeps unknown fields, or is combined of schemas in another way")
	}
}

// rest returns a part of the schema without what the others compare, and without what
// means nothing to a machine.
func rest(s *apiextensionsv1.JSONSchemaProps) apiextensionsv1.JSONSchemaProps {
	r := *s.DeepCopy()
	r.Description, r.Title, r.Example, r.ExternalDocs = "", "", nil, nil
	r.Type, r.Format, r.Nullable, r.Default = "", "", false, nil
	r.Maximum, r.MaxLength, r.MaxItems, r.MaxProperties, r.ExclusiveMaximum = nil, nil, nil, nil, false
	r.Minimum, r.MinLength, r.MinItems, r.MinProperties, r.ExclusiveMinimum = nil, nil, nil, nil, false
	r.MultipleOf, r.Pattern, r.Enum, r.XValidations = nil, "", nil, nil
	r.Properties, r.Required, r.Items, r.AdditionalProperties = nil, nil, nil, nil
	return r
}
